"""The judge: reads the sinks' raw files and knows the plan; shares no code with the system."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from chaos.plan import KEYS, Part, Plan
from chaos.theatre import Play

SHOWN = 8


class Record(NamedTuple):
    """A line of a sink's file: written at ``time_ns`` (monotonic) by ``writer``."""

    time_ns: int
    id: str
    n: int
    key: str
    writer: tuple[str, int, int]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the sinks have: ``events`` is how many different ones, over all sinks."""

    events: int
    lost: int
    duplicates: int
    voided: int
    problems: list[str]


def judge(plan: Plan, play: Play, out: Path) -> Verdict:
    """Whether the contract was kept."""
    problems = list(play.problems)
    events = lost = duplicates = voided = 0
    since = {(void.component, void.index, void.incarnation): void.since_ns for void in play.voids}
    for sink in (part for part in plan.parts if part.kind == "sink"):
        expected = set(_expected(plan, sink))
        records = sorted(_records(out, sink.name), key=lambda record: record.time_ns)
        valid = [record for record in records if record.time_ns < since.get(record.writer, record.time_ns + 1)]
        voided += len(records) - len(valid)
        copies = Counter(record.id for record in valid)
        missing, foreign = expected - copies.keys(), {record.id for record in records} - expected
        events += len(expected) - len(missing)
        lost += len(missing)
        duplicates += copies.total() - len(copies)
        if missing:
            problems.append(f"{sink.name}: lost {len(missing)} of {len(expected)} events: {_some(missing)}")
        if foreign:
            problems.append(f"{sink.name}: {len(foreign)} events that nobody emitted: {_some(foreign)}")
        problems += _duplicates(sink, copies, play)
        problems += _contents(sink, records)
        problems += _order(plan, sink, valid, play)
        problems += _count(plan, sink, records, play)
    problems += _conservation(plan, play)
    return Verdict(events=events, lost=lost, duplicates=duplicates, voided=voided, problems=problems)


def key_of(n: int) -> str:
    """The key of the event with this number."""
    return f"k{n * 7_919 % KEYS}"


def _expected(plan: Plan, part: Part) -> Iterator[str]:
    """The ids that leave a component, or arrive in a sink."""
    if part.kind == "source":
        for index in range(part.replicas):
            for n in range(plan.events):
                yield f"{part.name}.{index}:{n}"
        return
    for name in part.inputs:
        for event in _expected(plan, plan.part(name)):
            if part.kind == "sink":
                yield event
            elif part.program == "twice":
                yield f"{event}/{part.name}.0"
                yield f"{event}/{part.name}.1"
            elif part.program != "some" or _number(event) % 3:
                yield f"{event}/{part.name}.0"


def _records(out: Path, sink: str) -> Iterator[Record]:
    for path in sorted(out.glob(f"{sink}.*")):
        _, index, incarnation = path.name.split(".")
        writer = (sink, int(index), int(incarnation))
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                event, n, key, time_ns = line.split()
                yield Record(int(time_ns), event, int(n), key, writer)


def _number(event: str) -> int:
    return int(event.partition(":")[2].partition("/")[0])


def _path(event: str) -> tuple[str, ...]:
    """The source and processors that an id names."""
    origin, _, rest = event.partition(":")
    return (origin.rpartition(".")[0], *(step.rpartition(".")[0] for step in rest.split("/")[1:]))


def _duplicates(sink: Part, copies: Counter[str], play: Play) -> list[str]:
    """An event may arrive again only if a component on its way had a fault that resends; each such fault can double it."""
    faults = Counter(play.resending)
    bad: list[str] = []
    for event, count in copies.items():
        if count > 1:
            on_the_way = sum(faults[name] for name in (*_path(event), sink.name))
            if count > 2**on_the_way:
                bad.append(f"{event} {count} times with {on_the_way} resending faults on its way")
    return [f"{sink.name}: {len(bad)} events came too often: {_some(bad)}"] if bad else []


def _contents(sink: Part, records: list[Record]) -> list[str]:
    bad = {record.id for record in records if record.n != _number(record.id) or record.key != key_of(record.n)}
    return [f"{sink.name}: {len(bad)} events with another's content: {_some(bad)}"] if bad else []


def _order(plan: Plan, sink: Part, records: list[Record], play: Play) -> list[str]:
    """First arrivals grow per source instance, path and key, wherever replicas share by key."""
    scaled = {fault.component for fault in plan.faults if fault.kind == "scale"}
    newest: dict[tuple[str, str, str], int] = defaultdict(lambda: -1)
    seen: set[str] = set()
    bad: list[str] = []
    del play
    for record in records:
        if record.id in seen:
            continue
        seen.add(record.id)
        origin, _, rest = record.id.partition(":")
        _, _, suffix = rest.partition("/")
        way = [plan.part(name) for name in (*_path(record.id)[1:], sink.name)]
        if any((part.replicas > 1 or part.name in scaled) and not part.partition_by for part in way):
            continue
        lane = (origin, suffix, record.key)
        if record.n < newest[lane]:
            bad.append(f"{record.id} (key {record.key}) after {newest[lane]}")
        newest[lane] = max(newest[lane], record.n)
    return [f"{sink.name}: {len(bad)} events out of order: {_some(bad)}"] if bad else []


def _count(plan: Plan, sink: Part, records: list[Record], play: Play) -> list[str]:
    """A sink that lived once counted exactly what it wrote."""
    del plan
    problems: list[str] = []
    written = Counter(record.writer for record in records)
    for index in range(8):
        totals = play.totals.get(f"{sink.name}.{index}")
        if totals and totals["in_flight"] == 0 and totals["events_in_total"] != written[sink.name, index, 1]:
            problems.append(
                f"{sink.name}.{index} counted {totals['events_in_total']:.0f} events in and wrote {written[sink.name, index, 1]}"
            )
    return problems


def _conservation(plan: Plan, play: Play) -> list[str]:
    """In = out + filtered for each processor that lived once and ended with nothing in flight; nothing was dropped."""
    problems: list[str] = []
    for name, totals in play.totals.items():
        part = plan.part(name.rpartition(".")[0])
        if totals and totals["dropped_total"]:
            problems.append(f"{name} dropped {totals['dropped_total']:.0f} events")
        if not totals or part.kind != "processor" or totals["in_flight"]:
            continue
        made = totals["events_out_total"] / (2 if part.program == "twice" else 1)
        if totals["events_in_total"] != made + totals["filtered_total"]:
            problems.append(
                f"{name}: {totals['events_in_total']:.0f} in, but {totals['events_out_total']:.0f} out and "
                f"{totals['filtered_total']:.0f} filtered"
            )
    return problems


def _some(found: set[str] | list[str]) -> str:
    listed = sorted(found, key=lambda text: (text.partition(":")[0], _leading(text))) if isinstance(found, set) else found
    return ", ".join(listed[:SHOWN]) + (f" … {listed[-1]}" if len(listed) > SHOWN else "")


def _leading(event: str) -> int:
    return _number(event)
