"""JSON Schemas of everything that others can read: journal events in every version, heartbeats, log lines, dead letters. Pure.

They come from the structs that the services read and write themselves, so they cannot say anything else.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from flowctl.journal import subjects
from flowctl.journal.events import FORMER, VERSIONS, JournalEvent
from flowctl.journal.heartbeats import Heartbeat, HostBeat, ServiceBeat
from flowctl.journal.letters import DeadLetter
from flowctl.journal.logs import LogLine
from flowctl.journal.notices import Notice

Schema = dict[str, Any]

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

SIGNALS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "flowctl.heartbeat.component": Heartbeat,
    "flowctl.heartbeat.host": HostBeat,
    "flowctl.heartbeat.service": ServiceBeat,
    "flowctl.log": LogLine,
    "flowctl.deadletter": DeadLetter,
    "flowctl.notice": Notice,
}
"""What is published beside the journal, by the name of its schema. Of a dead letter this is the first line."""


def event_name(event_type: type[JournalEvent], version: int) -> str:
    """The name of an event's schema, which is its CloudEvents type: ``flowctl.component.exited.v1``."""
    kind, token = subjects.TOKENS[event_type]
    return subjects.ce_type(kind, token, version)


def versions(event_type: type[JournalEvent]) -> range:
    """Every version of the type that was ever released."""
    return range(1, VERSIONS[event_type] + 1)


def struct_of(event_type: type[JournalEvent], version: int) -> type[msgspec.Struct]:
    """The shape of that version: the type itself for the newest, the struct that was kept for a former one."""
    return event_type if version == VERSIONS[event_type] else FORMER[event_type.__name__, version]


def event_structs() -> dict[str, type[msgspec.Struct]]:
    """Every version of every journal event by the name of its schema, in the order of ``EVENT_TYPES``."""
    return {event_name(each, version): struct_of(each, version) for each in VERSIONS for version in versions(each)}


def all_structs() -> dict[str, type[msgspec.Struct]]:
    """The journal's events, and the signals beside it."""
    return event_structs() | dict(SIGNALS)


def components(structs: Mapping[str, type[msgspec.Struct]], ref_template: str) -> dict[str, Schema]:
    """The schemas of the structs under their names, and of every struct that these hold under the struct's own name.

    ``ref_template`` says how one refers to another: ``#/$defs/{name}``.
    """
    roots, _ = msgspec.json.schema_components(tuple(structs.values()), ref_template="{name}")
    own = {root["$ref"]: name for root, name in zip(roots, structs, strict=True)}
    _, parts = msgspec.json.schema_components(tuple(structs.values()), ref_template=ref_template)
    found = {own.get(name, name): _plain(part) for name, part in parts.items()}
    inner = sorted(name for name in found if name not in structs)
    return {name: found[name] for name in [*structs, *inner]}


def document() -> Schema:
    """One schema, draft 2020-12, that knows all of them: what fits it is an event or a signal of flowctl's."""
    structs = all_structs()
    return {
        "$schema": DRAFT,
        "$id": "urn:flowctl:v1:events",
        "title": "flowctl events",
        "description": "The data of journal entries, named by their ce-type; heartbeats, log lines, first lines of dead letters.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in structs],
        "$defs": components(structs, "#/$defs/{name}"),
    }


def single(name: str) -> Schema:
    """The schema of one event or signal by its name, with whatever it refers to.

    Raises:
        KeyError: there is none of that name.
    """
    parts = components({name: all_structs()[name]}, "#/$defs/{name}")
    root = parts.pop(name)
    return {"$schema": DRAFT, "$id": f"urn:flowctl:v1:{name}", **root, **({"$defs": parts} if parts else {})}


def text(schema: Schema) -> str:
    """A schema, or any other JSON object, indented and with a line break at the end."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def meant(word: str) -> list[str]:
    """The schemas that a word may mean, former versions first.

    A ce-type with or without ``flowctl.`` and its version, a struct's name, or the last part of a subject (``exited``).
    """
    plain = _letters(word).removeprefix("flowctl.")
    structs = all_structs()
    exact = [
        name for name, struct in structs.items() if plain in (_short(name), _short(base_of(name)), _letters(struct.__name__))
    ]
    return exact or [name for name in structs if plain == _letters(base_of(name)).rpartition(".")[2]]


def _short(name: str) -> str:
    return _letters(name).removeprefix("flowctl.")


def base_of(name: str) -> str:
    """A schema's name without its version: ``flowctl.component.exited``."""
    base, _, version = name.rpartition(".v")
    return base if version.isdigit() else name


def _letters(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def _plain(part: Schema) -> Schema:
    """A part as Markdown readers want it: docstrings mark code with two backticks."""
    if isinstance(description := part.get("description"), str):
        part["description"] = description.replace("``", "`")
    for each in cast("dict[str, Schema]", part.get("properties", {})).values():
        if isinstance(description := each.get("description"), str):
            each["description"] = description.replace("``", "`")
    return part
