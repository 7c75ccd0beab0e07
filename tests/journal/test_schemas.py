"""What other tools are told of the journal is what it holds: schemas, the AsyncAPI document, and the committed copies."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.ids import InstanceId
from flowctl.journal import asyncapi, codec, schemas, subjects
from flowctl.journal.events import EVENT_TYPES, FORMER, UPCASTERS, VERSIONS, Aggregate, JournalEvent
from flowctl.journal.log import Draft
from flowctl.spec.model import Component, Pipeline
from flowctl_cli.__main__ import run
from support.stories import spec_of

ROOT = Path(__file__).parents[2]
OFFICIAL = ROOT / "tests" / "vendor" / "asyncapi" / "3.0.0.json.gz"
DOCUMENT = asyncapi.document()
SPEC = spec_of()
ID = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)


def values_of(type_: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type; the parts of a pipeline file come from one."""
    if type_ is Pipeline:
        return st.just(SPEC)
    if type_ is Component:
        return st.sampled_from([component for _, component in SPEC.components()])
    if type_ is float:
        return st.floats(allow_nan=False, allow_infinity=False)  # JSON has neither
    return st.from_type(type_)


def events_of(event_type: type[JournalEvent]) -> st.SearchStrategy[JournalEvent]:
    """Events of this type with any fields."""
    strategies = {field.name: values_of(field.type) for field in msgspec.structs.fields(event_type)}
    return st.builds(event_type, **strategies)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Any event of the aggregate that it belongs to."""
    event_type = draw(st.sampled_from(EVENT_TYPES))
    kind, _ = subjects.TOKENS[event_type]
    key = (draw(ID), draw(ID), str(draw(st.integers(0, 99)))) if kind == "component" else (draw(ID),)
    return Draft(Aggregate(kind, key), draw(events_of(event_type)))


def conform(value: Any, schema: Any, draft: Any = jsonschema.Draft7Validator) -> None:
    """Fail if a value does not fit a schema."""
    draft(schema).validate(value)


def resolved(part: Any) -> Any:
    """What a part of the AsyncAPI document refers to, however far away."""
    while "$ref" in part:
        target: Any = DOCUMENT
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = target
    return part


def references(part: Any) -> Iterator[str]:
    """Every reference in a document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):  # pyright: ignore[reportUnknownMemberType]
            yield part["$ref"]
        for value in part.values():  # pyright: ignore[reportUnknownVariableType]
            yield from references(value)
    elif isinstance(part, list):
        for value in part:  # pyright: ignore[reportUnknownVariableType]
            yield from references(value)


@pytest.mark.parametrize("words", [("events",), ("asyncapi",)], ids=" ".join)
def test_the_committed_copies_are_what_the_command_prints(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    """`flowctl schema events > docs/schemas/events.json`, and the same for asyncapi."""
    assert run(["schema", *words]) == 0
    assert (ROOT / "docs" / "schemas" / f"{words[0]}.json").read_text() == capsys.readouterr().out


def test_the_asyncapi_document_is_valid():
    """By AsyncAPI's own schema, and no reference leads nowhere."""
    official = json.loads(gzip.decompress(OFFICIAL.read_bytes()))
    conform(json.loads(schemas.text(DOCUMENT)), official)
    for reference in set(references(DOCUMENT)):
        assert resolved({"$ref": reference}), reference
    broken = {**DOCUMENT, "channels": {"a": {"adress": "flowctl.journal.a"}}}
    with pytest.raises(jsonschema.ValidationError):
        conform(broken, official)


def test_every_version_of_every_type_has_its_schema():
    """A version that is written no more keeps its shape and its way up to the next one."""
    for event_type, newest in VERSIONS.items():
        for version in range(1, newest):
            assert (event_type.__name__, version) in FORMER
            assert (event_type.__name__, version) in UPCASTERS
    found = schemas.document()
    jsonschema.Draft202012Validator.check_schema(found)
    for event_type in EVENT_TYPES:
        for version in schemas.versions(event_type):
            assert schemas.event_name(event_type, version) in found["$defs"]
    for name in schemas.all_structs():
        jsonschema.Draft202012Validator.check_schema(schemas.single(name))


def test_a_former_version_is_published_beside_the_newest(monkeypatch: pytest.MonkeyPatch):
    """As it will be when the first type gets its second version."""
    newest = EVENT_TYPES[0]
    old = msgspec.defstruct(newest.__name__, [("host", str)], tag_field="type", tag=newest.__name__)
    monkeypatch.setattr(schemas, "VERSIONS", {**VERSIONS, newest: 2})
    monkeypatch.setattr(schemas, "FORMER", {(newest.__name__, 1): old})
    names = [
        name for name in schemas.document()["$defs"] if name.startswith(f"{schemas.base_of(schemas.event_name(newest, 1))}.v")
    ]
    assert [name[-2:] for name in names] == ["v1", "v2"]
    assert list(schemas.single(names[0])["properties"]) == ["type", "host"]
    assert schemas.meant(newest.__name__) == names


@given(drafts())
def test_whatever_is_appended_conforms(draft: Draft):
    """Subject, headers and data of any entry fit the channel, the headers and the payload that the document promises."""
    stored = codec.encode(draft, entry_id="e", actor="registry", correlation="c", previous_hash="", wall_ns=0)
    name = stored.headers[subjects.CE_TYPE]
    conform(json.loads(stored.data), schemas.single(name), jsonschema.Draft202012Validator)
    channel = DOCUMENT["channels"][".".join(subjects.TOKENS[type(draft.event)])]
    pattern = re.sub(r"\\{\w+\\}", "[^.]+", re.escape(channel["address"]))
    assert re.fullmatch(pattern, stored.subject)
    message = resolved(channel["messages"][name])
    whole = {"components": DOCUMENT["components"]}
    conform(stored.headers, {**message["headers"], **whole})
    conform(json.loads(stored.data), {**message["payload"], **whole})


def test_the_signals_stand_under_their_real_subjects():
    """Heartbeats, output and dead letters."""
    instance = InstanceId("orders", "enrich", 0)
    real = {
        "heartbeat.component": subjects.heartbeat_subject(instance),
        "heartbeat.host": subjects.host_heartbeat_subject("h1"),
        "heartbeat.service": subjects.service_heartbeat_subject("registry", "h1"),
        "log": subjects.log_subject(instance),
        "deadletter": subjects.dead_letter_subject(instance),
        "notice": subjects.notice_subject("alerts"),
    }
    places = {"pipeline": "orders", "component": "enrich", "index": "0", "host": "h1", "service": "registry", "name": "h1"}
    places["route"] = "alerts"
    for name, subject in real.items():
        assert DOCUMENT["channels"][name]["address"].format(**places) == subject


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (["--type", "ComponentExited"], "ComponentExited"),
        (["--type", "flowctl.component.status_changed", "--version", "1"], "ComponentStatusChanged"),
        (["--type", "flowctl.host.left.v1"], "HostLeft"),
        (["--type", "exited"], "ComponentExited"),
        (["--type", "log"], "LogLine"),
        (["--type", "heartbeat"], "Heartbeat"),
    ],
    ids=" ".join,
)
def test_one_schema(words: list[str], title: str, capsys: pytest.CaptureFixture[str]):
    """Types are named as people and programs name them."""
    assert run(["schema", "events", *words]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == title


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["events", "--type", "nothing"], "no event type"),
        (["events", "--type", "exited", "--version", "7"], "no version 7"),
        (["events", "--type", "log", "--version", "1"], "no version"),
        (["events", "--type", "status_changed"], "several types"),
        (["events", "--version", "1"], "needs the type"),
        (["pipeline", "--type", "exited"], "belong to events"),
    ],
    ids=" ".join,
)
def test_what_there_is_no_schema_of(words: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    """One clear sentence and exit code 2."""
    assert run(["schema", *words]) == 2
    assert says in capsys.readouterr().err
