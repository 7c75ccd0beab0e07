"""What a pipeline of the right shape may still say that cannot be obeyed. Needs no file: the orchestrator asks again on submit.

``find_problems`` is the whole answer; ``flowctl.spec.wiring`` has the part about the graph.
"""

import math
import re
from collections.abc import Iterator
from typing import Final, cast

import msgspec

from flowctl.errors import InvalidSpecError, UserError
from flowctl.partition import PartitionBy
from flowctl.spec import references
from flowctl.spec.catalog import CATALOG, names_of
from flowctl.spec.containers import container_problems, container_warnings
from flowctl.spec.model import Backoff, Component, Driver, Kind, OnError, Pipeline, Restart
from flowctl.spec.problems import MAX_PROBLEMS, Path, Problem, did_you_mean, one_of, quoted
from flowctl.spec.scalars import MAX_INT, MIN_INT
from flowctl.spec.unsupported import unsupported_driver, unsupported_in
from flowctl.spec.wiring import placed_components, wiring_problems

MAX_COMPONENTS: Final = 1_000
MAX_INSTANCES: Final = 10_000
MAX_PIPELINE_BYTES: Final = 512 * 1024
"""As JSON; a pipeline is one entry of the journal, whose server takes 1 MiB at most."""

_ENV_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z")
_LABEL_KEY = re.compile(r"\A[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?\Z")
_LOADER = ("LD_", "DYLD_")


def find_problems(pipeline: Pipeline) -> list[Problem]:
    """Everything about the pipeline that cannot be obeyed, in file order of the components, the graph's problems last."""
    return [*local_problems(pipeline), *wiring_problems(pipeline)]


def verify(pipeline: Pipeline) -> None:
    """Refuse a pipeline that cannot be obeyed.

    Raises:
        InvalidSpecError: with every problem, each naming its path; there are no places, since there is no file.
    """
    problems = find_problems(pipeline)
    if problems:
        errors = [problem.error() for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            errors.append(UserError(f"and {len(problems) - MAX_PROBLEMS} more problems"))
        raise InvalidSpecError(errors)


def find_warnings(pipeline: Pipeline) -> list[Problem]:
    """What will be obeyed and is probably not meant."""
    driver = pipeline.spec.driver
    return [
        problem
        for _, component, path in placed_components(pipeline)
        for problem in (*_unexpanded(component, path), *container_warnings(component, component.driver or driver, path))
    ]


def local_problems(pipeline: Pipeline) -> list[Problem]:
    """What is wrong within the pipeline's head and within each component, the others not looked at."""
    return [
        *_labels(pipeline.metadata.labels, ("metadata", "labels")),
        *_annotations(pipeline.metadata.annotations, ("metadata", "annotations")),
        *_text(pipeline.spec.description, ("spec", "description")),
        *unsupported_driver(pipeline.spec.driver),
        *(
            problem
            for kind, component, path in placed_components(pipeline)
            for problem in _component(kind, component, path, pipeline.spec.driver)
        ),
        *_size(pipeline),
    ]


def _component(kind: Kind, component: Component, path: Path, driver: Driver) -> Iterator[Problem]:
    effective = component.driver or driver
    yield from _what_runs(kind, component, path, effective)
    for field in ("command", "args"):
        for number, word in enumerate(cast("list[str] | None", getattr(component, field)) or []):
            yield from _word(word, (*path, field, number))
    yield from _config(component.config, (*path, "config"), 1)
    yield from references.check(component.config, (*path, "config"))
    yield from _env(component.env, (*path, "env"))
    if component.partition_by is not None:
        yield from _partition_by(kind, component.partition_by, (*path, "partition_by"))
    yield from _restart(component.restart, (*path, "restart"))
    yield from _on_error(kind, component.on_error, (*path, "on_error"))
    check = component.health_check
    if check is not None:
        yield from _text(check.path, (*path, "health_check", "path"))
        if check.timeout_s > check.interval_s:
            message = f"a probe may take {check.timeout_s:g} s, and the next begins after {check.interval_s:g} s"
            yield Problem((*path, "health_check", "timeout_s"), message, "write a timeout_s of at most interval_s")
    yield from _ports(component, (*path, "ports"))
    if component.placement is not None:
        yield from _labels(component.placement.labels, (*path, "placement", "labels"))
    yield from unsupported_in(component, driver, path)
    if effective != "kubernetes":
        yield from container_problems(component, effective, path)


def _what_runs(kind: Kind, component: Component, path: Path, driver: Driver) -> Iterator[Problem]:
    given = [name for name in ("type", "command", "image") if getattr(component, name) is not None]
    in_image = driver == "docker" and len(given) == 2 and "image" in given  # the image that has the type or the command
    if len(given) != 1 and not in_image:
        found = "none of them" if not given else " and ".join(given)
        more = "; in a container, image may stand beside one of the others" if driver == "docker" else ""
        yield Problem(path, f"found {found}, expected exactly one of type, command and image{more}", "it says what runs")
    if component.type is not None:
        yield from _type(kind, component.type, (*path, "type"))
        ready_made = CATALOG.get(component.type)
        if component.replicas > 1 and ready_made is not None and kind in ready_made.one_reader:
            message = f"found {component.replicas}: each replica of a {component.type} {kind} would read everything"
            yield Problem((*path, "replicas"), message, "write replicas: 1, and give replicas to the component that reads it")
        if component.args:
            yield Problem((*path, "args"), "a ready-made component takes no args", "write its settings under config")
    if component.command is not None and not (component.command and component.command[0].strip()):
        yield Problem((*path, "command", 0), "the program's name is empty", "name a program, for example python")


def _type(kind: Kind, name: str, path: Path) -> Iterator[Problem]:
    ready_made = CATALOG.get(name)
    if ready_made is None:
        known = one_of(names_of(kind))
        hint = did_you_mean(name, names_of(kind)) or "run a program of your own with command"
        yield Problem(path, f"found {quoted(name)}, expected a ready-made {kind}: {known}", hint)
    elif kind not in ready_made.summaries:
        is_a = " and a ".join(ready_made.summaries)
        yield Problem(path, f"{quoted(name)} is a {is_a}, not a {kind}", f"expected {one_of(names_of(kind))}")


def _word(word: str, path: Path) -> Iterator[Problem]:
    yield from _nul(word, path)
    if references.has_reference(word):
        message = "references are not filled in here: every user of the host can read a program's arguments"
        yield Problem(path, message, "put it under env or config, and let the program read it there")


def _text(text: str, path: Path) -> Iterator[Problem]:
    yield from _nul(text, path)
    if references.has_reference(text):
        yield Problem(path, "references are not filled in here", "they may stand in the values of config and env")


def _nul(text: str, path: Path) -> Iterator[Problem]:
    if "\0" in text:
        yield Problem(path, "the text holds a NUL character", "no program can be given one: remove it")


def _config(value: object, path: Path, depth: int) -> Iterator[Problem]:
    """JSON values only: what cannot travel as JSON is refused, not bent."""
    match value:
        case None | bool():
            pass
        case str():
            yield from _nul(value, path)
        case int():
            if not MIN_INT <= value <= MAX_INT:
                yield Problem(path, "the number does not fit in 64 bits", "quote it if it is a text")
        case float():
            if not math.isfinite(value):
                yield Problem(path, "infinity and NaN are not numbers that can be passed on")
        case dict() | list() if depth > 64:
            yield Problem(path, "lists and mappings are nested deeper than 64")
        case dict():
            for key, item in cast("dict[object, object]", value).items():
                if not isinstance(key, str):
                    yield Problem(path, f"found the key {str(key)[:40]}, expected keys that are texts")
                    continue
                yield from _text(key, (*path, key))
                yield from _config(item, (*path, key), depth + 1)
        case list():
            for number, item in enumerate(cast("list[object]", value)):
                yield from _config(item, (*path, number), depth + 1)
        case _:
            yield Problem(path, f"found a value of type {type(value).__name__}, expected what JSON can say")


def _env(env: dict[str, str], path: Path) -> Iterator[Problem]:
    for name, value in env.items():
        where = (*path, name)
        if not _ENV_NAME.match(name):
            message = f"{quoted(name)} is not the name of an environment variable"
            yield Problem(where, message, "expected letters, digits and '_', not starting with a digit", at_key=True)
        elif name.upper().startswith("FLOWCTL_"):
            hint = "choose another name; settings of the component's own go under config"
            yield Problem(where, "names with FLOWCTL_ are what flowctl tells a component", hint, at_key=True)
        elif name.startswith(_LOADER):
            message = f"{name} makes the dynamic loader run other code than the one that the command names"
            yield Problem(where, message, "set it in a program that command starts", at_key=True)
        # line breaks are legal in values and are passed on: keys and certificates have them
        yield from _nul(value, where)
    yield from references.check(env, path)


def _partition_by(kind: Kind, text: str, path: Path) -> Iterator[Problem]:
    if kind == "source":
        message = "a source receives no events that could be shared out"
        yield Problem(path, message, "write partition_by at the processor or sink whose replicas share the events")
        return
    try:
        by = PartitionBy.parse(text)
    except UserError as error:
        yield Problem(path, error.message, did_you_mean(text, ("id", "type", "payload", "metadata")))
        return
    if by.field == "payload" and by.selector is not None:
        reason = jmespath_error(by.selector)
        if reason is not None:
            yield Problem(path, f"{quoted(by.selector)} is not a JMESPath: {reason}", "for example payload.customer.id")


def jmespath_error(expression: str) -> str | None:
    """Why a text is no JMESPath expression, in one line; None if it is one."""
    if len(expression) > 1_000:
        return "it is longer than 1,000 characters"
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        jmespath.compile(expression)
    except JMESPathError as error:
        return (str(error).splitlines() or ["it cannot be parsed"])[0].rstrip(":")
    except RecursionError:
        return "it is nested too deeply"
    return None


def _restart(restart: Restart, path: Path) -> Iterator[Problem]:
    if restart.policy == "never" and msgspec.structs.replace(restart, policy="on_failure") != Restart():
        message = "the policy is never, so nothing else under restart has an effect"
        yield Problem(path, message, "remove the rest, or write policy: on_failure")
    yield from _backoff(restart.backoff, (*path, "backoff"))


def _on_error(kind: Kind, on_error: OnError, path: Path) -> Iterator[Problem]:
    if kind == "source" and on_error != OnError():
        message = "a source is given no events that it could fail on, so on_error has no effect"
        yield Problem(path, message, "remove it; restart says what happens when the source fails")
        return
    if on_error.action == "fail" and on_error != OnError():
        message = "the action is fail, so nothing else under on_error has an effect"
        yield Problem(path, message, "remove the rest, or write action: retry")
    yield from _backoff(on_error.backoff, (*path, "backoff"))


def _backoff(backoff: Backoff, path: Path) -> Iterator[Problem]:
    if backoff.initial_s > backoff.max_s:
        message = f"the first wait of {backoff.initial_s:g} s is longer than the longest, {backoff.max_s:g} s"
        yield Problem((*path, "initial_s"), message, "write an initial_s of at most max_s")


def _ports(component: Component, path: Path) -> Iterator[Problem]:
    ports = component.ports
    if ports is None:
        return
    if component.replicas > 1 and (ports.data or ports.health):
        message = f"{component.replicas} replicas cannot share one port"
        yield Problem(path, message, "remove ports: each instance then takes free ones, and its peers are told")
    if ports.data is not None and ports.data == ports.health:
        yield Problem((*path, "health"), f"found {ports.health}, which is the data port", "write two different ports")


def _labels(labels: dict[str, str], path: Path) -> Iterator[Problem]:
    for key, value in labels.items():
        yield from _label_key(key, (*path, key))
        yield from _text(value, (*path, key))
        if len(value) > 256 or not value.isprintable():
            message = f"found {quoted(value, 20)}, expected one line of at most 256 characters"
            yield Problem((*path, key), message, "longer texts go under metadata.annotations")


def _annotations(annotations: dict[str, str], path: Path) -> Iterator[Problem]:
    for key, value in annotations.items():
        yield from _label_key(key, (*path, key))
        yield from _text(value, (*path, key))


def _label_key(key: str, path: Path) -> Iterator[Problem]:
    if not _LABEL_KEY.match(key):
        message = f"{quoted(key, 40)} cannot be a key here"
        yield Problem(path, message, "expected letters, digits, '.', '_', '/' and '-', at most 128", at_key=True)


def _size(pipeline: Pipeline) -> Iterator[Problem]:
    components = pipeline.components()
    if len(components) > MAX_COMPONENTS:
        yield Problem(
            ("spec",), f"found {len(components):,} components, expected at most {MAX_COMPONENTS:,}", "split the pipeline"
        )
    instances = sum(component.replicas for _, component in components)
    if instances > MAX_INSTANCES:
        yield Problem(
            ("spec",), f"the replicas sum up to {instances:,}, expected at most {MAX_INSTANCES:,}", "split the pipeline"
        )
    try:
        size_bytes = len(msgspec.json.encode(pipeline))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return  # a value that JSON cannot say is reported where it stands
    if size_bytes > MAX_PIPELINE_BYTES:
        message = f"the pipeline is {size_bytes:,} bytes as JSON, expected at most {MAX_PIPELINE_BYTES:,}"
        yield Problem(("spec",), message, "keep large data in files that the components read")


def _unexpanded(component: Component, path: Path) -> Iterator[Problem]:
    program = (component.command or [""])[0].rpartition("/")[2]
    if program in {"sh", "bash", "dash", "zsh", "ash", "ksh", "fish", "env"}:
        return
    for field, words in (("command", component.command or []), ("args", component.args)):
        for number, word in enumerate(words):
            if "$(" in word or "`" in word or re.search(r"\$\{?[A-Za-z_]", word):
                message = f"{quoted(word)} is passed as it stands: no shell fills it in"
                yield Problem((*path, field, number), message, 'if it is meant, run a shell: command: ["sh", "-c", "…"]')
