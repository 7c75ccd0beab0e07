"""The JSON Schema of the pipeline file, for editors and other tools; it comes from the structs of ``flowctl.spec.model``."""

from typing import Any, Final, cast

import msgspec
from msgspec import inspect

from flowctl.spec.catalog import names_of
from flowctl.spec.model import Kind, Pipeline

SCHEMA_FILE: Final = "flowctl.schema.json"
"""The name under which ``flowctl init`` puts the schema beside a pipeline file."""

EDITOR_LINE: Final = f"# yaml-language-server: $schema={SCHEMA_FILE}"
"""The first line of a pipeline file: editors with the YAML language server then complete and check it."""

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_LISTS: Final[tuple[tuple[str, Kind], ...]] = (("sources", "source"), ("processors", "processor"), ("sinks", "sink"))

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of a whole file, draft 2020-12. It knows shapes and ranges; ``flowctl validate`` knows the rest too."""
    (root,), parts = msgspec.json.schema_components((Pipeline,), ref_template="#/$defs/{name}")
    for struct in _structs(inspect.type_info(Pipeline), {}).values():
        _describe(parts[struct.cls.__name__], struct)
    for name, kind in _LISTS:
        _narrow(parts["Spec"]["properties"][name], kind)
    component = parts["Component"]
    component["oneOf"] = [{"required": [field]} for field in ("type", "command", "image")]
    return {
        "$schema": _DRAFT,
        "$id": "urn:flowctl:v1:pipeline",
        "title": "flowctl pipeline",
        "description": "A pipeline: its sources, processors and sinks, and how they are connected.",
        **root,
        "$defs": parts,
    }


def json_schema_text() -> str:
    """The schema as indented JSON with a line break at the end."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"


def _narrow(part: Schema, kind: Kind) -> None:
    """Offer the ready-made components of the kind."""
    types = {"type": {"enum": [*names_of(kind), None]}}
    part["items"] = {"allOf": [part["items"], {"properties": types}]}


def _describe(part: Schema, struct: inspect.StructType) -> None:
    """Put each field's description where editors look for it, also where the field may be null."""
    part["description"] = cast("str", part["description"]).replace("``", "`")
    for field in struct.fields:
        description = _description(field.type)
        if description is not None:
            part["properties"][field.encode_name]["description"] = description


def _description(type_: inspect.Type) -> str | None:
    match type_:
        case inspect.Metadata():
            extra = cast("dict[str, str]", type_.extra_json_schema or {})  # pyright: ignore[reportUnknownMemberType]
            return extra.get("description") or _description(type_.type)
        case inspect.UnionType():
            return next((text for option in type_.types if (text := _description(option)) is not None), None)
        case _:
            return None


def _structs(type_: inspect.Type, found: dict[str, inspect.StructType]) -> dict[str, inspect.StructType]:
    """Every struct that a type holds, by name."""
    match type_:
        case inspect.Metadata():
            _structs(type_.type, found)
        case inspect.UnionType():
            for option in type_.types:
                _structs(option, found)
        case inspect.ListType():
            _structs(type_.item_type, found)
        case inspect.StructType() if type_.cls.__name__ not in found:
            found[type_.cls.__name__] = type_
            for field in type_.fields:
                _structs(field.type, found)
        case _:
            pass
    return found
