"""The CLI's pure parts: what the user points at, which entries are meant, and how things are written."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.errors import InvalidIdError, UserError
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentExited, HostJoined, PipelineStatusChanged
from flowctl.journal.log import Draft
from flowctl.journal.memory import MemoryStore
from flowctl_cli.entries import Selection, entry_row, entry_view, event_types
from flowctl_cli.targets import Target, is_file, replicas
from flowctl_cli.terminal import age, columns, one_line, quantity


def test_a_target_has_one_to_three_parts():
    """PIPELINE, PIPELINE.COMPONENT, PIPELINE.COMPONENT.INDEX; written as it is read."""
    assert Target.parse("orders") == Target("orders")
    assert Target.parse("orders.enrich.2") == Target("orders", "enrich", 2)
    for text in ("orders", "orders.enrich", "orders.enrich.2"):
        assert str(Target.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "a.b.c", "a.b.-1", "a.b.1.2", "A", "*", ">", "a.*", "$JS", "../x", "a b", "a.b.²"]
)
def test_what_cannot_be_an_id_is_refused(text: str):
    """Nothing that could be a wildcard, a path or an option gets through."""
    with pytest.raises(InvalidIdError):
        Target.parse(text)


@given(st.text(max_size=80))
def test_reading_a_target_never_fails_otherwise(text: str):
    """Any text is a target or an InvalidIdError."""
    with contextlib.suppress(InvalidIdError):
        target = Target.parse(text)
        assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        "orders",
        "orders.enrich",
        "orders.enrich.0=2",
        "orders.enrich=0",
        "orders.enrich=-1",
        "orders.enrich=1e9",
        "=3",
        "orders.enrich=",
    ],
)
def test_scale_wants_a_component_and_a_number(text: str):
    """PIPELINE.COMPONENT=N and nothing else."""
    with pytest.raises(UserError):
        replicas(text)


def test_scale_is_read():
    """The target and the number."""
    assert replicas("orders.enrich=3") == (Target("orders", "enrich"), 3)


def test_files_are_told_from_names():
    """A path or a YAML name is a file, an id is not."""
    assert all(is_file(text) for text in ("-", "pipeline.yaml", "./orders", "a/b", "x.yml"))
    assert not any(is_file(text) for text in ("orders", "orders.enrich"))


@pytest.mark.parametrize(
    "name", ["ComponentExited", "componentexited", "component_exited", "exited", "flowctl.component.exited.v1"]
)
def test_event_types_have_several_spellings(name: str):
    """As in the JSON, as on the subject, as in the CloudEvents header."""
    assert event_types([name]) == {"ComponentExited"}


def test_an_ambiguous_token_means_all_of_that_name():
    """`status_changed` exists for components and pipelines."""
    assert event_types(["status_changed"]) == {"ComponentStatusChanged", "PipelineStatusChanged"}


def test_an_unknown_event_type_is_refused():
    """And the message lists those that exist."""
    with pytest.raises(UserError) as refusal:
        event_types(["ComponentExploded"])
    assert "ComponentExited" in (refusal.value.hint or "")


async def stored() -> MemoryStore:
    """Entries of a pipeline, of its instances, and of a host that has the pipeline's name."""
    store = MemoryStore()
    exited = ComponentExited(host="a", incarnation=1, assignment=1, code=3, detail="it \x1b[2J said\nthis")
    drafts = [
        Draft(Aggregate.of_pipeline("orders"), PipelineStatusChanged(status="running")),
        Draft(Aggregate.of_instance(InstanceId("orders", "enrich", 0)), exited),
        Draft(Aggregate.of_instance(InstanceId("orders", "other", 1)), exited),
        Draft(Aggregate.of_instance(InstanceId("lager", "enrich", 0)), exited),
        Draft(Aggregate.of_host("orders"), HostJoined(agent="x", address="127.0.0.1", drivers=["process"])),
    ]
    await store.journal.append(drafts, actor="test")
    store.journal.put("flowctl.journal.pipeline.orders.exploded", {}, b"\xff")
    return store


async def selected(selection: Selection) -> list[int]:
    """The sequences that a selection reads, as history does."""
    store = await stored()
    return [entry.seq async for entry in store.journal.read(subject=selection.subjects) if selection.has(entry)]


async def test_a_selection_covers_exactly_what_is_meant():
    """A pipeline's own entries and its instances', and no host's that has its name; unreadable entries of it too."""
    assert await selected(Selection()) == [1, 2, 3, 4, 5, 6]
    assert await selected(Selection(target=Target("orders"))) == [1, 2, 3, 6]
    assert await selected(Selection(target=Target("orders", "enrich"))) == [2]
    assert await selected(Selection(target=Target("orders", "other", 0))) == []
    assert await selected(Selection(types=event_types(["exited"]))) == [2, 3, 4]
    assert await selected(Selection(target=Target("orders", "other"), types=event_types(["exited"]))) == [3]


async def test_entries_are_shown_whatever_is_in_them():
    """Unreadable ones say so; control characters never reach the terminal."""
    entries = [entry async for entry in (await stored()).journal.read()]
    assert entry_view(entries[1]).instance == "orders.enrich.0"
    assert entry_view(entries[1]).data["code"] == 3
    assert entry_view(entries[-1]).problem
    for entry in entries:
        assert "\x1b" not in "".join(columns(["", "", "", "", ""], [entry_row(entry)], colour=False))


def test_tables_line_up_and_fit():
    """Columns are as wide as their widest cell; only the last is cut, and only where there is a width."""
    lines = columns(["A", "B"], [["x", "short"], ["longer", "a rather long text"]], colour=False, width=15)
    assert lines == ["A       B", "x       short", "longer  a rath…"]
    assert columns(["A", "B"], [["x", "y" * 200]], colour=False)[1].endswith("y" * 200)
    assert "\x1b" not in "".join(columns(["A"], [["\x1b[31mred"]], colour=False))


def test_spans_and_numbers_are_short():
    """Two units at most; three digits."""
    assert [age(ms) for ms in (0, 950, 12_000, 200_000, 7_500_000, 356_400_000, -5)] == [
        "0ms",
        "950ms",
        "12s",
        "3m20s",
        "2h05m",
        "4d3h",
        "0ms",
    ]
    assert [quantity(value) for value in (0, 999, 1000, 12_345, 1_234_567, 2.5)] == ["0", "999", "1k", "12.3k", "1.23M", "2.5"]


@given(st.text())
def test_one_line_is_one_printable_line(text: str):
    """Whatever a program prints cannot break a table or command the terminal."""
    assert one_line(text).isprintable()
    assert len(one_line(text)) == len(text)
