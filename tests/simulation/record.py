"""``python -m simulation.record LOG...``: writes its section of ``RELIABILITY.md`` from what ``--log`` has gathered."""

import datetime as dt
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from simulation.campaign import Tally
from support.reliability import write_section

SECTION = "The control plane, simulated"


class Line(msgspec.Struct):
    """One call of ``python -m simulation --log``: the tally of the seeds from ``first`` on; ``real_s`` is what it took."""

    first: int
    real_s: float
    tally: Tally
    sabotage: str = ""


def record(lines: Sequence[Line], *, day: str, machine: str) -> str:
    """The section: totals of the schedules, what went wrong in them, and what the positive controls did."""
    total, controls = Tally(), dict[str, Tally]()
    for line in lines:
        (controls.setdefault(line.sabotage, Tally()) if line.sabotage else total).merge(line.tally)
    real_s = sum(line.real_s for line in lines if not line.sabotage)
    rows = [
        ("schedules", f"{total.schedules:,}"),
        ("seeds", ", ".join(_ranges([line for line in lines if not line.sabotage]))),
        ("schedules in which something did not hold", f"{total.failed:,}"),
        ("simulated time", f"{total.seconds / 86_400:.1f} days"),
        ("journal entries", f"{total.entries:,}"),
        ("programs started", f"{total.counts.get('starts', 0):,}"),
        ("real time", f"{real_s / 60:.0f} min"),
        ("date", day),
        ("machine", machine),
    ]
    happened = sorted(((what, count) for what, count in total.counts.items() if what != "starts"), key=lambda row: -row[1])
    caught = [
        (name, f"{tally.schedules:,}", f"{tally.failed:,}", str(tally.failures[0].seed), tally.failures[0].problems[0])
        if tally.failures
        else (name, f"{tally.schedules:,}", "0", "never", "")
        for name, tally in sorted(controls.items())
    ]
    return _TEXT.format(
        table=_table(("", ""), rows),
        happened=_table(("what", "times"), [(what, f"{count:,}") for what, count in happened]),
        controls=_table(("taken out", "schedules", "caught", "first at seed", "what was said of it"), caught),
    )


def _ranges(lines: Sequence[Line]) -> list[str]:
    """The seeds of the lines, those that follow each other as one range."""
    ranges: list[list[int]] = []
    for line in sorted(lines, key=lambda line: line.first):
        last = line.first + line.tally.schedules - 1
        if ranges and ranges[-1][1] == line.first - 1:
            ranges[-1][1] = last
        else:
            ranges.append([line.first, last])
    return [f"{first:,} to {last:,}" for first, last in ranges]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


_TEXT = """\
Each schedule is the whole control plane in one event loop on a virtual clock: one or two each of the real registry, health
monitor and orchestrator, the agents' real presence and reconcilers on one to three hosts, on the journal's in-memory twin behind
a network that delays, loses answers, writes late, repeats, conflicts and answers stale. One to eight faults fall at random times,
among them kills between any two steps, pauses and partitions; then everything is mended, and the fleet must settle within 240 s.
`make simulate SEED=… SCHEDULES=…` plays schedules again; the same seed gives the same trace byte for byte.

{table}

An oracle that sees the truth demands of every schedule: no acknowledged registration, end, checkpoint or submission is lost; no
incarnation is claimed or started twice, and nothing that a superseded one says counts; nobody is marked unhealthy or lost
without as much silence as that takes, not counting the journal's absences, nor for a reason that is the journal's alone; nobody
is said to have exited who lives, nor stopped whom the journal wants; in the end every status is true and every pipeline where it
belongs.

### What happened

{happened}

### Protections taken out

{controls}
"""


def main() -> int:
    """Write the section."""
    lines = [msgspec.json.decode(text, type=Line) for name in sys.argv[1:] for text in Path(name).read_bytes().splitlines()]
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}, shared"
    write_section(SECTION, record(lines, day=dt.datetime.now(dt.UTC).date().isoformat(), machine=machine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
