"""The judge: reads the sinks' raw files and knows the plan; shares no code with the system."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from chaos.balance import unequal
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
    """What the sinks have: ``events`` is how many different ones, over all sinks.

    ``dropped`` are those that did not arrive where ``when_full: drop`` allows it, ``letters`` the different dead letters,
    ``edges`` the pairs of instances whose counters were compared.
    """

    events: int
    lost: int
    duplicates: int
    voided: int
    dropped: int
    letters: int
    edges: int
    problems: list[str]


def judge(plan: Plan, play: Play, out: Path) -> Verdict:
    """Whether the contract was kept."""
    problems = list(play.problems)
    events = lost = duplicates = voided = dropped = 0
    since = {(void.component, void.index, void.incarnation): void.since_ns for void in play.voids}
    for sink in (part for part in plan.parts if part.kind == "sink"):
        expected = set(_expected(plan, sink))
        records = sorted(_records(out, sink.name), key=lambda record: record.time_ns)
        valid = [record for record in records if record.time_ns < since.get(record.writer, record.time_ns + 1)]
        voided += len(records) - len(valid)
        copies = Counter(record.id for record in valid)
        missing, foreign = expected - copies.keys(), {record.id for record in records} - expected
        events += len(expected) - len(missing)
        duplicates += copies.total() - len(copies)
        if not sink.stays:
            problems += _absences(plan, sink, len(missing), play)
        elif sink.drops:
            dropped += len(missing)
            problems += _drops(plan, sink, len(missing), play)
        elif missing:
            lost += len(missing)
            problems.append(f"{sink.name}: lost {len(missing)} of {len(expected)} events: {_some(missing)}")
        if foreign:
            problems.append(f"{sink.name}: {len(foreign)} events that nobody emitted: {_some(foreign)}")
        problems += _duplicates(sink, copies, play)
        problems += _contents(sink, records)
        problems += _order(plan, sink, valid, play.resending)
        problems += _count(plan, sink, records, play)
    letters = {(component, event) for component, event, _ in play.letters}
    unkept, wrong = _letters(plan, play)
    graph = {part.name: (part.inputs, play.replicas[part.name]) for part in plan.parts if part.name in play.replicas}
    if not problems:
        # A schedule that did not come to its end has no final counters.
        wrong += _sums(plan, play) + unequal(play.accounts, graph)
    return Verdict(
        events=events,
        lost=lost + unkept,
        duplicates=duplicates,
        voided=voided,
        dropped=dropped,
        letters=len(letters),
        edges=sum(replicas * play.replicas[name] for inputs, replicas in graph.values() for name in inputs),
        problems=problems + wrong,
    )


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
            elif not (part.program == "some" and _number(event) % 3 == 0) and not (part.program == "picky" and _bad(event)):
                yield f"{event}/{part.name}.0"


def _arriving(plan: Plan, part: Part) -> list[str]:
    """The ids that enter a component, in no order."""
    return [event for name in part.inputs for event in _expected(plan, plan.part(name))]


def _bad(event: str) -> bool:
    """Whether a picky processor fails on it."""
    return _number(event) % 251 == 7


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


def _order(plan: Plan, sink: Part, records: list[Record], resending: Collection[str]) -> list[str]:
    """First arrivals grow per source instance, path and key, wherever replicas share by key.

    Where ``when_full: drop`` lets events go, a replay may bring what was dropped before, and then it arrives late.
    """
    scaled = {fault.component for fault in plan.faults if fault.kind == "scale"}
    newest: dict[tuple[str, str, str], int] = defaultdict(lambda: -1)
    seen: set[str] = set()
    bad: list[str] = []
    for record in records:
        if record.id in seen:
            continue
        seen.add(record.id)
        origin, _, rest = record.id.partition(":")
        _, _, suffix = rest.partition("/")
        way = [plan.part(name) for name in (*_path(record.id)[1:], sink.name)]
        if any((part.replicas > 1 or part.name in scaled) and not part.partition_by for part in way):
            continue
        if any(part.drops for part in way) and any(name in resending for name in _path(record.id)):
            continue
        lane = (origin, suffix, record.key)
        if record.n < newest[lane]:
            bad.append(f"{record.id} (key {record.key}) after {newest[lane]}")
        newest[lane] = max(newest[lane], record.n)
    return [f"{sink.name}: {len(bad)} events out of order: {_some(bad)}"] if bad else []


def _drops(plan: Plan, sink: Part, missing: int, play: Play) -> list[str]:
    """Exactly what is missing was counted as dropped, wherever no copy of an event and no counter was lost with a process."""
    senders = [account for account in play.accounts if account.component in sink.inputs]
    incarnations = Counter(account.instance for account in senders)
    if any(not account.ending or incarnations[account.instance] < account.incarnation for account in senders):
        return []
    counted = sum(share.dropped for account in senders if (share := account.share(sink.name)))
    again = any(name in play.resending for name in {*sink.inputs, *_above(plan, sink)})
    if missing == counted or (again and missing < counted):
        return []
    return [f"{sink.name}: {missing} events are missing, and {counted} were counted as dropped"]


def _absences(plan: Plan, sink: Part, missing: int, play: Play) -> list[str]:
    """A sink that came later misses exactly what had gone by before; one event of a window speaks of up to as many as it has."""
    if sink.name not in play.replicas or {*_above(plan, sink)} & {*play.resending}:
        return []
    senders = [account for account in play.accounts if account.component in sink.inputs]
    skipped = sum(share.skipped for account in senders if (share := account.share(sink.name)))
    window = max(1, *(plan.part(name).window for name in sink.inputs))
    if skipped <= missing <= skipped * window:
        return []
    return [f"{sink.name}: {missing} events are missing, and {skipped} went by before it was there"]


def _above(plan: Plan, part: Part) -> set[str]:
    """The components that a component's events come from."""
    return {*part.inputs, *(name for each in part.inputs for name in _above(plan, plan.part(each)))}


def _count(plan: Plan, sink: Part, records: list[Record], play: Play) -> list[str]:
    """Each incarnation of a sink wrote what it counted, and no more if it ended on purpose."""
    problems: list[str] = []
    written = Counter(record.writer for record in records)
    for account in (account for account in play.accounts if account.component == sink.name):
        wrote = written[sink.name, int(account.instance.rpartition(".")[2]), account.incarnation]
        counted, final = account.count("processed_total"), account.ending and not account.count("in_hand")
        # A window is one event of several.
        if wrote < counted or (final and not _of_windows(plan, sink) and wrote != counted):
            problems.append(f"{account.instance} ({account.incarnation}) counted {counted} events and wrote {wrote}")
    return problems


def _of_windows(plan: Plan, part: Part) -> bool:
    return any(plan.part(name).program == "windowed" for name in part.inputs)


def _letters(plan: Plan, play: Play) -> tuple[int, list[str]]:
    """How many events that a component gave up on are nowhere; and what is wrong with dead letters."""
    problems: list[str] = []
    kept: dict[str, Counter[str]] = defaultdict(Counter)
    for component, event, attempts in play.letters:
        kept[component][event] += 1
        if attempts != 2:
            problems.append(f"{component}: the letter {event} says {attempts} attempts, not 2")
    unkept = 0
    for part in plan.parts:
        expected = {event for event in _arriving(plan, part) if _bad(event)} if part.program == "picky" else set[str]()
        letters = kept[part.name]
        if missing := expected - letters.keys():
            unkept += len(missing)
            problems.append(f"{part.name}: lost {len(missing)} of {len(expected)} dead letters: {_some(missing)}")
        if foreign := letters.keys() - expected:
            problems.append(f"{part.name}: {len(foreign)} dead letters of sound events: {_some(foreign)}")
        # An answer of the registry that is lost makes the component put the letter aside again.
        again = sum(name in {part.name, *_above(plan, part)} for name in play.resending) + play.done.get("registry", 0)
        if often := [event for event, count in letters.items() if count > 2**again]:
            problems.append(f"{part.name}: {len(often)} dead letters came too often: {_some(often)}")
    return unkept, problems


def _sums(plan: Plan, play: Play) -> list[str]:
    """Components that lived once, below others that did, counted exactly what the plan says."""
    problems: list[str] = []
    for part in plan.parts:
        if not part.stays or {part.name, *_above(plan, part)} & {*play.resending}:
            continue
        accounts = [account for account in play.accounts if account.component == part.name]
        arriving, leaving = _arriving(plan, part), [] if part.kind == "sink" else list(_expected(plan, part))
        wanted = {"events_out_total": len(leaving)}
        if part.kind != "source":
            bad = sum(map(_bad, arriving)) if part.program == "picky" else 0
            wanted["dead_lettered_total"] = bad
            if not part.drops and not _of_windows(plan, part):
                wanted["events_in_total"] = len(arriving)
                wanted["processed_total"] = len(leaving) if part.program == "some" else len(arriving) - bad
        if part.program == "windowed":
            del wanted["events_out_total"], wanted["processed_total"]
        for name, number in wanted.items():
            counted = sum(account.count(name) for account in accounts)
            if counted != number:
                problems.append(f"{part.name} counted {name} {counted}, not {number}")
    return problems


def _some(found: set[str] | list[str]) -> str:
    listed = sorted(found, key=lambda text: (text.partition(":")[0], _leading(text))) if isinstance(found, set) else found
    return ", ".join(listed[:SHOWN]) + (f" … {listed[-1]}" if len(listed) > SHOWN else "")


def _leading(event: str) -> int:
    return _number(event)
