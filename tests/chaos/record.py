"""``python -m chaos.record LOG...``: writes its section of ``RELIABILITY.md`` from the lines of ``python -m chaos --log``."""

import datetime as dt
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from chaos.schedule import Outcome
from support.reliability import write_section

SECTION = "Faults of the data plane"
TEMPLATE = Path(__file__).with_suffix(".md")


def record(outcomes: list[Outcome], *, day: str, machine: str) -> str:
    """The section: totals of the schedules, and what the positive controls did."""
    real = [outcome for outcome in outcomes if not outcome.sabotage]
    alone = [outcome for outcome in real if not outcome.plan.services]
    governed = [outcome for outcome in real if outcome.plan.services]
    controls: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.sabotage:
            controls.setdefault(outcome.sabotage, []).append(outcome)
    columns = (alone, governed, real)
    rows = [(name, *(cell(each) for each in columns)) for name, cell in _ROWS]
    shapes = {outcome.plan.shape for outcome in real}
    caught = [
        (
            name,
            str(len(found)),
            str(sum(outcome.failed for outcome in found)),
            str(min((outcome.plan.seed for outcome in found if outcome.failed), default="never")),
            f"{sum(outcome.verdict.lost for outcome in found):,}",
        )
        for name, found in sorted(controls.items())
    ]
    return TEMPLATE.read_text().format(
        day=day,
        machine=machine,
        table=_table(("", "data plane alone", "whole flowctl", "together"), rows),
        faults=_table(("fault", "times"), _faults(alone)),
        attacks=_table(("fault", "times"), _faults(governed)),
        shapes=_table(
            ("graph", "data plane alone", "whole flowctl"),
            [
                (shape, *(str(sum(each.plan.shape == shape for each in those)) for those in columns[:2]))
                for shape in sorted(shapes)
            ],
        ),
        controls=_table(("broken on purpose", "schedules", "caught", "first caught at seed", "lost"), caught) if caught else "",
    )


def _emitted(outcomes: list[Outcome]) -> int:
    return sum(
        outcome.plan.events * part.replicas for outcome in outcomes for part in outcome.plan.parts if part.kind == "source"
    )


def _durations(outcomes: list[Outcome]) -> str:
    seconds = sorted(outcome.play.seconds for outcome in outcomes)
    return f"{seconds[len(seconds) // 2]:.1f} s, {seconds[-1]:.1f} s" if seconds else "-"


def _faults(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """How often each was done, the commonest first; parts of the control plane by their names."""
    counted = sum((Counter(outcome.play.done) for outcome in outcomes), Counter[str]())
    return [(kind.replace("@", ""), f"{count:,}") for kind, count in counted.most_common()]


_ROWS: list[tuple[str, Callable[[list[Outcome]], str]]] = [
    ("schedules", lambda those: f"{len(those):,}"),
    (
        "seeds",
        lambda those: (
            _ranges(sorted({outcome.plan.seed for outcome in those})) if len({o.plan.focus for o in those}) == 1 else ""
        ),
    ),
    ("events emitted", lambda those: f"{_emitted(those):,}"),
    ("different events in sinks", lambda those: f"{sum(outcome.verdict.events for outcome in those):,}"),
    ("lost", lambda those: f"{sum(outcome.verdict.lost for outcome in those):,}"),
    ("arrived again, as the contract allows", lambda those: f"{sum(outcome.verdict.duplicates for outcome in those):,}"),
    ("dead letters", lambda those: f"{sum(outcome.verdict.letters for outcome in those):,}"),
    ("dropped where `when_full: drop` says so", lambda those: f"{sum(outcome.verdict.dropped for outcome in those):,}"),
    ("edges that added up exactly in the end", lambda those: f"{sum(outcome.verdict.edges for outcome in those):,}"),
    ("heartbeats that added up exactly", lambda those: f"{sum(outcome.play.beats for outcome in those):,}"),
    ("written by a superseded incarnation, not counted", lambda those: f"{sum(o.verdict.voided for o in those):,}"),
    ("faults", lambda those: f"{sum(sum(outcome.play.done.values()) for outcome in those):,}"),
    ("schedules that broke the contract", lambda those: f"{sum(outcome.failed for outcome in those):,}"),
    ("a schedule lasts (median, longest)", _durations),
    ("all of them, one after the other", lambda those: f"{sum(outcome.play.seconds for outcome in those) / 60:.0f} min"),
]


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


if __name__ == "__main__":
    decoder = msgspec.json.Decoder(Outcome)
    found = [decoder.decode(line) for name in sys.argv[1:] for line in Path(name).read_bytes().splitlines()]
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    write_section(SECTION, record(found, day=today, machine=_machine()))
