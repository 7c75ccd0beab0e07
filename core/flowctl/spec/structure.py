"""A tree of nodes against the schema's types: every problem at once, and what could be read of the pipeline.

The schema decides what an unquoted word means: where a string is expected ``no`` and ``12:30`` are strings, and ``8080`` is an
error that says to quote it, as it is in an editor that checks the file against the JSON Schema.
"""

import functools
import json
import re
import shlex
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

from flowctl.errors import InvalidIdError
from flowctl.ids import check_id, is_id
from flowctl.spec.model import Id, Pipeline
from flowctl.spec.nodes import Node
from flowctl.spec.problems import Path, Problem, did_you_mean, one_of, quoted
from flowctl.spec.scalars import MAX_INT, MIN_INT, Refused, Scalar, resolve, was_boolean_once

# words from other tools' files -> ours
_FOREIGN: Final = {
    "cmd": "command", "entrypoint": "command", "run": "command", "environment": "env", "depends_on": "inputs", "input": "inputs",
    "upstream": "inputs", "upstreams": "inputs", "name": "id", "count": "replicas", "instances": "replicas", "scale": "replicas",
    "healthcheck": "health_check", "restart_policy": "restart", "options": "config", "settings": "config", "params": "config",
    "with": "config", "version": "apiVersion", "memory": "memory_bytes", "timeout": "timeout_s", "interval": "interval_s",
}  # fmt: skip
_DURATION = re.compile(r"\A([0-9.]+) *(ms|s|m|h)\Z")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ID_PATTERN: Final = cast("inspect.StrType", getattr(inspect.type_info(Id), "type", None)).pattern


class Reading(msgspec.Struct):
    """What was read: the pipeline as far as it could be, its problems and warnings, in no particular order.

    Where a value was wrong the pipeline holds the default or a placeholder: it is good for finding further problems only.
    """

    pipeline: Pipeline
    problems: list[Problem]
    warnings: list[Problem]


def read_structure(root: Node) -> Reading:
    """Check a whole file's tree against ``Pipeline``."""
    reader = _Reader()
    value = reader.value(root, _pipeline_type(), ())
    pipeline = cast("Pipeline", _placeholder(_pipeline_type()) if value is _WRONG else value)
    return Reading(pipeline, reader.problems, reader.warnings)


@functools.cache
def _pipeline_type() -> inspect.Type:
    return inspect.type_info(Pipeline)


class _Wrong:
    """A value that could not be read; its problem is reported."""


_WRONG: Final = _Wrong()


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def value(self, node: Node, type_: inspect.Type, path: Path) -> object:
        """The node's value as the type, or ``_WRONG`` with the problems reported."""
        match type_:
            case inspect.Metadata():
                return self.value(node, type_.type, path)
            case inspect.StructType():
                return self._struct(node, type_, path)
            case inspect.UnionType():
                return self._union(node, type_, path)
            case inspect.ListType():
                return self._list(node, type_, path)
            case inspect.DictType():
                return self._dict(node, type_, path)
            case inspect.AnyType():
                return self._any(node, path)
            case _:
                return self._scalar(node, type_, path)

    def _struct(self, node: Node, type_: inspect.StructType, path: Path) -> object:
        if node.kind != "mapping":
            return self._unexpected(node, type_, path)
        fields = {field.encode_name: field for field in type_.fields}
        values: dict[str, Any] = {}
        for key, (index, child) in node.entries.items():
            field = fields.get(key)
            if field is None:
                hint = _hint_for_field(key, list(fields), set(node.entries))
                expected = one_of([name for name in fields if name not in node.entries])
                message = "unknown field" + ("" if hint else f", expected {expected}")
                self.problems.append(Problem((*path, key), message, hint, index, at_key=True))
                continue
            value = self.value(child, field.type, (*path, key))
            if value is not _WRONG:
                values[field.name] = value
        for name, field in fields.items():
            if field.required and field.name not in values:
                if name not in node.entries:
                    message = f"missing, expected {describe(field.type)}"
                    self.problems.append(Problem((*path, name), message, _hint_for_missing(field), node.index))
                values[field.name] = _placeholder(field.type)
        return type_.cls(**values)

    def _union(self, node: Node, type_: inspect.UnionType, path: Path) -> object:
        options = [_bare(option) for option in type_.types]
        if any(isinstance(option, inspect.NoneType) for option in options):
            if node.plain and resolve(node.text) is None:
                return None
            options = [option for option in options if not isinstance(option, inspect.NoneType)]
        fitting = [option for option in options if _shape(option) == node.kind]
        if len(options) == 1 or fitting:
            return self.value(node, (fitting or options)[0], path)
        return self._unexpected(node, type_, path)

    def _list(self, node: Node, type_: inspect.ListType, path: Path) -> object:
        if node.kind != "list":
            return self._unexpected(node, type_, path)
        values = [self.value(item, type_.item_type, (*path, number)) for number, item in enumerate(node.items)]
        if not self._has_length(node, len(values), type_, "entries", path):
            return _WRONG
        return [_placeholder(type_.item_type) if value is _WRONG else value for value in values]

    def _dict(self, node: Node, type_: inspect.DictType, path: Path) -> object:
        if node.kind != "mapping":
            return self._unexpected(node, type_, path)
        values = {key: self.value(child, type_.value_type, (*path, key)) for key, (_, child) in node.entries.items()}
        return {key: value for key, value in values.items() if value is not _WRONG}

    def _any(self, node: Node, path: Path) -> object:
        """A JSON value; keys are the text that stands in the file."""
        if node.kind == "list":
            values = [self._any(item, (*path, number)) for number, item in enumerate(node.items)]
            return [value for value in values if value is not _WRONG]
        if node.kind == "mapping":
            pairs = {key: self._any(child, (*path, key)) for key, (_, child) in node.entries.items()}
            return {key: value for key, value in pairs.items() if value is not _WRONG}
        if not node.plain:
            return node.text
        value = resolve(node.text)
        if isinstance(value, Refused):
            also = f'quote it ("{node.text}") for a text' if len(node.text) < 40 else "quote it for a text"
            return self._report(node, path, f"found {node.text[:40]}: {value.message}", also + _otherwise(value.hint))
        if isinstance(value, str) and was_boolean_once(value):
            message = f"{node.text} is a text here, not a boolean"
            hint = f'write true or false for a boolean, "{node.text}" for the text'
            self.warnings.append(Problem(path, message, hint, node.index))
        return value

    def _scalar(self, node: Node, type_: inspect.Type, path: Path) -> object:
        if node.kind != "scalar":
            return self._unexpected(node, type_, path)
        value: Scalar | Refused = resolve(node.text) if node.plain else node.text
        match type_:
            case inspect.StrType() if isinstance(value, str):
                return self._string(node, type_, path)
            case inspect.LiteralType() if isinstance(value, str):
                return value if value in type_.values else self._unexpected(node, type_, path)
            case inspect.IntType() | inspect.FloatType() if isinstance(value, Refused):
                return self._report(node, path, f"found {node.text[:40]}: {value.message}", value.hint)
            case inspect.IntType() | inspect.FloatType() if _is_number(value, type_):
                number = cast("int | float", value)
                if not _in_range(number, type_):
                    return self._unexpected(node, type_, path)
                return float(number) if isinstance(type_, inspect.FloatType) else number
            case inspect.BoolType() if isinstance(value, bool):
                return value
            case _:
                return self._unexpected(node, type_, path)

    def _string(self, node: Node, type_: inspect.StrType, path: Path) -> object:
        text = node.text
        if "\0" in text:
            return self._report(node, path, "the text holds a NUL character", "no program can be given one: remove it")
        if type_.pattern == _ID_PATTERN:
            if is_id(text):
                return text
            return self._unexpected(node, type_, path)
        if type_.pattern is not None and not re.search(type_.pattern, text):
            return self._unexpected(node, type_, path)
        return text if self._has_length(node, len(text), type_, "characters", path) else _WRONG

    def _has_length(self, node: Node, length: int, type_: inspect.ListType | inspect.StrType, unit: str, path: Path) -> bool:
        if type_.min_length is not None and length < type_.min_length:
            self._report(node, path, f"found {length or 'no'} {unit}, expected at least {type_.min_length}")
            return False
        if type_.max_length is not None and length > type_.max_length:
            self._report(node, path, f"found {length:,} {unit}, expected at most {type_.max_length:,}")
            return False
        return True

    def _unexpected(self, node: Node, type_: inspect.Type, path: Path) -> _Wrong:
        return self._report(node, path, f"found {found(node)}, expected {describe(type_)}", _hint_for_value(node, type_))

    def _report(self, node: Node, path: Path, message: str, hint: str | None = None) -> _Wrong:
        self.problems.append(Problem(path, message, hint, node.index))
        return _WRONG


def found(node: Node) -> str:
    """What stands there, in words."""
    if node.kind == "list":
        return "a list" if node.items else "an empty list"
    if node.kind == "mapping":
        return "a mapping" if node.entries else "an empty mapping"
    value = resolve(node.text) if node.plain else node.text
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {node.text}"
    if isinstance(value, str):
        return quoted(value)
    return f"the number {node.text[:40]}"


def describe(type_: inspect.Type) -> str:
    """What a type expects, in words."""
    match type_:
        case inspect.Metadata():
            return describe(type_.type)
        case inspect.UnionType():
            return " or ".join(describe(option) for option in type_.types if not isinstance(option, inspect.NoneType))
        case inspect.LiteralType():
            return one_of(str(value) for value in type_.values)
        case inspect.StrType():
            if type_.pattern == _ID_PATTERN:
                return "an id (lower-case letters, digits, '-' and '_', at most 63)"
            return "a text that starts with '/'" if type_.pattern == "^/" else "a string"
        case inspect.IntType() | inspect.FloatType():
            return ("a whole number" if isinstance(type_, inspect.IntType) else "a number") + _range(type_)
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType():
            item = _bare(type_.item_type)
            if isinstance(item, inspect.StrType):
                return "a list of strings"
            return "a list of component ids" if isinstance(item, inspect.UnionType) else "a list"
        case inspect.DictType():
            return "a mapping of strings" if isinstance(_bare(type_.value_type), inspect.StrType) else "a mapping"
        case inspect.StructType():
            return "a mapping with " + one_of(field.encode_name for field in type_.fields)
        case _:
            return "a value"


def _range(type_: inspect.IntType | inspect.FloatType) -> str:
    low, high = type_.ge, type_.le
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    if type_.gt is not None:
        return f" above {type_.gt:,}" + (f", at most {high:,}" if high is not None else "")
    return f" of at least {low:,}" if low is not None else ""


def _in_range(number: float, type_: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (type_.ge is None or number >= type_.ge)
        and (type_.gt is None or number > type_.gt)
        and (type_.le is None or number <= type_.le)
        and (type_.lt is None or number < type_.lt)
        and MIN_INT <= number <= MAX_INT
    )


def _is_number(value: object, type_: inspect.Type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and isinstance(type_, inspect.FloatType))


def _bare(type_: inspect.Type) -> inspect.Type:
    return _bare(type_.type) if isinstance(type_, inspect.Metadata) else type_


def _shape(type_: inspect.Type) -> str:
    if isinstance(type_, inspect.StructType | inspect.DictType):
        return "mapping"
    return "list" if isinstance(type_, inspect.ListType) else "scalar"


def _placeholder(type_: inspect.Type) -> object:
    """Something of that type, to go on checking with."""
    match bare := _bare(type_):
        case inspect.StructType():
            return bare.cls(**{field.name: _placeholder(field.type) for field in bare.fields if field.required})
        case inspect.UnionType():
            return _placeholder(bare.types[0])
        case inspect.LiteralType():
            return bare.values[0]
        case inspect.ListType():
            return []
        case inspect.DictType():
            return {}
        case inspect.IntType() | inspect.FloatType():
            return 1
        case _:
            return "unreadable"


def _hint_for_field(key: str, fields: list[str], present: set[str]) -> str | None:
    foreign = _FOREIGN.get(key.lower().replace("-", "_"))
    if foreign in fields and foreign not in present:
        return f'did you mean "{foreign}"?'
    near = did_you_mean(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).replace("-", "_"), [f for f in fields if f not in present])
    if near is None and "apiVersion" in fields and key in _fields_of("spec"):
        return f'it belongs under "spec"; {near}' if near else 'it belongs under "spec"'
    if near is None and "apiVersion" in fields and key in _fields_of("metadata"):
        return 'it belongs under "metadata"'
    return near


@functools.cache
def _fields_of(part: str) -> frozenset[str]:
    pipeline = cast("inspect.StructType", _pipeline_type())
    inner = next(cast("inspect.StructType", _bare(field.type)) for field in pipeline.fields if field.name == part)
    return frozenset(field.encode_name for field in inner.fields)


def _hint_for_missing(field: inspect.Field) -> str | None:
    bare = _bare(field.type)
    return f"write {field.encode_name}: {bare.values[0]}" if isinstance(bare, inspect.LiteralType) else None


def _hint_for_value(node: Node, type_: inspect.Type) -> str | None:
    bare = _bare(type_)
    options = [_bare(option) for option in bare.types] if isinstance(bare, inspect.UnionType) else [bare]
    expected = options[0]
    if node.kind != "scalar":
        return None
    value = resolve(node.text) if node.plain else node.text
    if value is None and not isinstance(expected, inspect.StrType | inspect.IntType | inspect.FloatType):
        return "write a value or remove the key"
    if value is None:
        return None
    if isinstance(expected, inspect.StrType):
        if isinstance(value, str):
            return _nearest_id(value) if expected.pattern == _ID_PATTERN else None
        if expected.pattern == _ID_PATTERN and not is_id(node.text):
            return None
        return f"quote it: {json.dumps(node.text[:60])}"
    if isinstance(expected, inspect.ListType) and isinstance(value, str):
        return f"write a list: {_as_list(value)}"
    if isinstance(expected, inspect.LiteralType) and isinstance(value, str):
        return did_you_mean(value, [str(literal) for literal in expected.values])
    if isinstance(expected, inspect.IntType | inspect.FloatType) and isinstance(value, str):
        return _as_number(value, expected)
    if isinstance(expected, inspect.BoolType) and isinstance(value, str) and was_boolean_once(value):
        return f"write {'true' if value.lower() in {'yes', 'on', 'y'} else 'false'}"
    return None


def _nearest_id(text: str) -> str | None:
    try:
        check_id(text, "component")
    except InvalidIdError as error:
        return error.hint
    return None


def _as_list(text: str) -> str:
    try:
        words = shlex.split(text[:200])
    except ValueError:
        words = text[:200].split()
    return json.dumps(words, ensure_ascii=False)


def _as_number(text: str, type_: inspect.IntType | inspect.FloatType) -> str | None:
    duration = _DURATION.match(text)
    if duration and isinstance(type_, inspect.FloatType) and duration[1].count(".") < 2 and duration[1] != ".":
        return f"it counts seconds: write {float(duration[1]) * _SECONDS[duration[2]]:g}"
    bare = text.replace("_", "").replace(",", "")
    if isinstance(resolve(bare) if bare else None, int | float):
        return f"write {bare} without quotes, '_' and ','"
    return None


def _otherwise(hint: str | None) -> str:
    return f", {hint} for the number" if hint else ""
