"""The AsyncAPI document of everything that flowctl publishes: channels, parameters, headers, payloads. Pure.

AsyncAPI 3.0: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from collections.abc import Mapping
from typing import Any, Final

from flowctl import __version__
from flowctl.ids import ID_PATTERN
from flowctl.journal import schemas, subjects
from flowctl.journal.events import EVENT_TYPES, JournalEvent

Part = dict[str, Any]

PARAMETERS: Final[Mapping[str, str]] = {
    "pipeline": f"The pipeline's name: {ID_PATTERN}",
    "component": f"The component's id: {ID_PATTERN}",
    "index": "The number of the instance, from 0, without leading zeros",
    "host": f"The host's name: {ID_PATTERN}",
    "route": f"The name of a notifier's route: {ID_PATTERN}",
    "service": "registry, health, orchestrator, agent or notify",
    "name": f"The name of the service's replica: {ID_PATTERN}",
}
"""What stands in a subject in the place of each parameter."""

HEADERS: Final[Mapping[str, str]] = {
    subjects.CE_SPECVERSION: "CloudEvents 1.0",
    subjects.CE_ID: "Unique to the entry",
    subjects.CE_TYPE: "Aggregate, event and version",
    subjects.CE_SOURCE: "/flowctl/<who wrote it>",
    subjects.CE_SUBJECT: "The aggregate: <pipeline>.<component>.<index>, <pipeline> or <host>",
    subjects.CE_TIME: "The writer's clock, RFC 3339; the server's time of the message is the one that counts",
    subjects.CE_ACTOR: "Who decided",
    subjects.CE_CORRELATION: "The same for all that came of one command",
    subjects.CE_CAUSATION: "The stream sequence of the entry that led to this one, 0 if none",
    subjects.CE_PREVIOUS_HASH: "SHA-256 (hex) of the aggregate's previous entry, empty at its first",
    subjects.CONTENT_TYPE: "application/json",
}
"""The headers of every journal entry, with what each says."""

_SIGNAL_CHANNELS: Final[Mapping[str, tuple[str, str]]] = {
    "flowctl.heartbeat.component": (f"{subjects.HEARTBEAT_ROOT}.component", subjects.HEARTBEAT_STREAM),
    "flowctl.heartbeat.host": (f"{subjects.HEARTBEAT_ROOT}.host", subjects.HEARTBEAT_STREAM),
    "flowctl.heartbeat.service": (f"{subjects.HEARTBEAT_ROOT}.service", subjects.HEARTBEAT_STREAM),
    "flowctl.log": (subjects.LOG_ROOT, subjects.LOG_STREAM),
    "flowctl.deadletter": (subjects.DEAD_LETTER_ROOT, subjects.DEAD_LETTER_STREAM),
    "flowctl.notice": (subjects.NOTICE_ROOT, subjects.NOTICE_STREAM),
}
_SIGNAL_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "flowctl.heartbeat.host": ("host",),
    "flowctl.heartbeat.service": ("service", "name"),
    "flowctl.notice": ("route",),
}
_INSTANCE: Final = ("pipeline", "component", "index")
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {"component": _INSTANCE, "pipeline": ("pipeline",), "host": ("host",)}


def document() -> Part:
    """The whole document."""
    channels = {name: _event_channel(each) for each in EVENT_TYPES for name in [_channel_name(each)]}
    channels |= {name.removeprefix("flowctl."): _signal_channel(name) for name in schemas.SIGNALS}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:flowctl:events",
        "info": {
            "title": "flowctl",
            "version": __version__,
            "description": "What flowctl publishes on NATS: the journal of everything that happened to pipelines, components and"
            " hosts, kept for ever in a JetStream stream; heartbeats, output and dead letters beside it. A wildcard (*) in the"
            " place of a parameter subscribes to all of them. docs/journal.md and docs/subscribing.md say more.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "{address}",
                "protocol": "nats",
                "description": "A NATS server with JetStream; `flowctl server status` shows the address.",
                "variables": {"address": {"default": "127.0.0.1:4222", "description": "Host and port"}},
            }
        },
        "channels": channels,
        "operations": {name: _operation(name, channel) for name, channel in channels.items()},
        "components": {
            "parameters": {
                key: {"description": PARAMETERS.get(key, f"Which {key}")}
                for channel in channels.values()
                for key in channel["parameters"]
            },
            "messages": _messages(),
            "schemas": {"EntryHeaders": _headers(), **schemas.components(schemas.all_structs(), "#/components/schemas/{name}")},
        },
    }


def _channel_name(event_type: type[JournalEvent]) -> str:
    return ".".join(subjects.TOKENS[event_type])


def _event_channel(event_type: type[JournalEvent]) -> Part:
    kind, token = subjects.TOKENS[event_type]
    keys = _KEYS.get(kind, (kind,))
    names = [schemas.event_name(event_type, version) for version in schemas.versions(event_type)]
    address = f"{subjects.JOURNAL_ROOT}.{kind}.{_places(keys)}.{token}"
    return _channel(address, event_type.__name__, keys, names, subjects.JOURNAL_STREAM)


def _signal_channel(name: str) -> Part:
    root, stream = _SIGNAL_CHANNELS[name]
    keys = _SIGNAL_KEYS.get(name, _INSTANCE)
    return _channel(f"{root}.{_places(keys)}", schemas.SIGNALS[name].__name__, keys, [name], stream)


def _channel(address: str, title: str, keys: tuple[str, ...], names: list[str], stream: str) -> Part:
    return {
        "address": address,
        "title": title,
        "servers": [{"$ref": "#/servers/nats"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "parameters": {key: {"$ref": f"#/components/parameters/{key}"} for key in keys},
        "x-jetstream-stream": stream,
    }


def _places(keys: tuple[str, ...]) -> str:
    return ".".join(f"{{{key}}}" for key in keys)


def _operation(name: str, channel: Part) -> Part:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in channel["messages"]],
    }


def _messages() -> dict[str, Part]:
    found: dict[str, Part] = {}
    for name, struct in schemas.all_structs().items():
        summary = (struct.__doc__ or "").partition("\n")[0].replace("``", "`")
        found[name] = {"name": name, "title": struct.__name__, "summary": summary}
        if name == "flowctl.deadletter":
            found[name] |= {"contentType": "application/octet-stream", "payload": _letter_payload(name)}
            continue
        found[name] |= {"contentType": "application/json", "payload": {"$ref": f"#/components/schemas/{name}"}}
        if name not in schemas.SIGNALS:
            found[name] |= {
                "headers": {
                    "allOf": [
                        {"$ref": "#/components/schemas/EntryHeaders"},
                        {"type": "object", "properties": {subjects.CE_TYPE: {"const": name}}},
                    ]
                },
                "correlationId": {"location": f"$message.header#/{subjects.CE_CORRELATION}"},
            }
    return found


def _letter_payload(name: str) -> Part:
    return {
        "type": "string",
        "description": f"One line of JSON (#/components/schemas/{name}), a line feed, and the event's payload as it was.",
    }


def _headers() -> Part:
    properties: dict[str, Part] = {name: {"type": "string", "description": text} for name, text in HEADERS.items()}
    properties[subjects.CE_SPECVERSION]["const"] = "1.0"
    properties[subjects.CE_TIME]["format"] = "date-time"
    properties[subjects.CE_CAUSATION]["pattern"] = "^[0-9]+$"
    properties[subjects.CE_PREVIOUS_HASH]["pattern"] = "^([0-9a-f]{64})?$"
    properties[subjects.CONTENT_TYPE]["const"] = "application/json"
    return {
        "title": "EntryHeaders",
        "description": "CloudEvents 1.0, binary content mode, as NATS headers.",
        "type": "object",
        "properties": properties,
        "required": list(HEADERS),
    }
