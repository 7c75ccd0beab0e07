"""``python -m chaos.record LOG...``: writes its section of ``RELIABILITY.md`` from the lines of ``python -m chaos --log``."""

import datetime as dt
import os
import platform
import sys
from collections import Counter
from pathlib import Path

import msgspec

from chaos.schedule import Outcome
from support.reliability import write_section

SECTION = "Faults of the data plane"


def record(outcomes: list[Outcome], *, day: str, machine: str) -> str:
    """The section: totals of the schedules, and what the positive controls did."""
    real = [outcome for outcome in outcomes if not outcome.sabotage]
    controls: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.sabotage:
            controls.setdefault(outcome.sabotage, []).append(outcome)
    faults = sum((Counter(outcome.play.done) for outcome in real), Counter[str]())
    shapes = Counter(outcome.plan.shape for outcome in real)
    seeds = sorted(outcome.plan.seed for outcome in real)
    durations = sorted(outcome.play.seconds for outcome in real)
    emitted = sum(outcome.plan.events * part.replicas for outcome in real for part in outcome.plan.parts if part.kind == "source")
    rows = [
        ("schedules", f"{len(real):,}"),
        ("seeds", _ranges(seeds)),
        ("events emitted", f"{emitted:,}"),
        ("different events in sinks", f"{sum(outcome.verdict.events for outcome in real):,}"),
        ("lost", f"{sum(outcome.verdict.lost for outcome in real):,}"),
        ("arrived again, as the contract allows", f"{sum(outcome.verdict.duplicates for outcome in real):,}"),
        ("dead letters", f"{sum(outcome.verdict.letters for outcome in real):,}"),
        ("dropped where `when_full: drop` allows it, each one counted", f"{sum(outcome.verdict.dropped for outcome in real):,}"),
        ("edges that added up exactly in the end", f"{sum(outcome.verdict.edges for outcome in real):,}"),
        ("heartbeats that added up exactly", f"{sum(outcome.play.beats for outcome in real):,}"),
        ("written by a superseded incarnation, not counted", f"{sum(outcome.verdict.voided for outcome in real):,}"),
        ("faults", f"{faults.total():,}"),
        ("schedules that broke the contract", f"{sum(outcome.failed for outcome in real):,}"),
        ("a schedule lasts (median, longest)", f"{durations[len(durations) // 2]:.1f} s, {durations[-1]:.1f} s"),
        ("all of them, one after the other", f"{sum(durations) / 60:.0f} min"),
        ("date", day),
        ("machine", machine),
    ]
    return _DOCUMENT.format(
        table=_table(("", ""), rows),
        faults=_table(("fault", "times"), [(kind, f"{count:,}") for kind, count in faults.most_common()]),
        shapes=_table(("graph", "schedules"), [(shape, f"{count:,}") for shape, count in sorted(shapes.items())]),
        controls=_table(
            ("broken on purpose", "schedules", "caught", "first caught at seed", "lost"),
            [
                (
                    name,
                    str(len(found)),
                    str(sum(outcome.failed for outcome in found)),
                    str(min((outcome.plan.seed for outcome in found if outcome.failed), default="never")),
                    f"{sum(outcome.verdict.lost for outcome in found):,}",
                )
                for name, found in sorted(controls.items())
            ],
        ),
    )


def _ranges(seeds: list[int]) -> str:
    """``1 to 100, 1001 to 1500``; with its gaps, so that nothing is left out unseen."""
    parts: list[tuple[int, int]] = []
    for seed in seeds:
        if parts and seed <= parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], seed)
        else:
            parts.append((seed, seed))
    return ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, shared"


_DOCUMENT = """Each schedule is a random graph of real processes on the real data plane, about 12,000 numbered events and random
faults, all from one seed; then an oracle that shares no code with flowctl reads what the sinks have written.
`make chaos SEED=… SCHEDULES=…` plays schedules again.

{table}

The oracle demands of every schedule: each event in each sink that its graph leads it to; an event twice only if something on
its way was killed, stopped, replaced or scaled, under the same id and with the same content; the order of each source, path
and key kept, wherever replicas share by key; what a superseded incarnation writes never needed; counters of every instance
that lived once that add up exactly; every process ended with the exit code of its part.

### Faults

{faults}

`kill` is SIGKILL and a new start; `graceful` SIGTERM and a new start; `pause` SIGSTOP and SIGCONT; `zombie` SIGSTOP, a
replacement, then SIGCONT of the old one; `reset`, `drop`, `delay` and `half_open` are done by a TCP proxy before the instance;
`scale` adds or removes replicas; `registry` cuts everybody off the registry.

### Graphs

{shapes}

### Positive controls

The same harness with the SDK broken on purpose in the component's process. A harness that never fails proves nothing.

{controls}

### What it has found

- A call to the registry that failed closed the connection under the watch of the topology, which then ended without a word: the
  instance never heard of a moved or completed neighbour again (seeds 8 and 13). Mended; a test of its own guards it.
- Seeds 1076, 1103, 1119, 1147 and 1179 failed at first: four of the stops named below, and a stop before the program could hear
  it. The oracle has learnt both, and they were played again.

### Limits

A stop in good order can lose its last acknowledgement with the stream that it went out on, so what the neighbour had not heard of
is sent again (seed 1147 showed it): no loss, but a duplicate that a half-closed stream would spare. A replica that is scaled away
with events under way waits out most of its stop timeout, because nobody is left to acknowledge them; others have them by then.

The registry of these schedules is a small one of the harness; the whole control plane under kill -9 is tested in
`tests/e2e`. Processes run on one machine; nothing cuts its power. Checkpoints come every 0.1 s and keepalives every 0.5 s
in place of 1 s and 3 s, so that a schedule takes seconds.
"""

if __name__ == "__main__":
    decoder = msgspec.json.Decoder(Outcome)
    found = [decoder.decode(line) for name in sys.argv[1:] for line in Path(name).read_bytes().splitlines()]
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    write_section(SECTION, record(found, day=today, machine=_machine()))
