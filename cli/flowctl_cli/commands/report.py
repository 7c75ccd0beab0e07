"""``flowctl report``."""

import itertools
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from flowctl.availability import Figures, Record
from flowctl.errors import UserError
from flowctl.ids import check_id
from flowctl.instants import Instant, parse_instant
from flowctl_cli import completion, plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, callback, command, new_app, run
from flowctl_cli.terminal import Cell, age, note, print_json, print_table

app = new_app()

HEAD = (
    "WHO",
    "FROM",
    "AVAILABLE",
    "UP",
    "DOWN",
    "UNKNOWN",
    "FAILURES",
    "RESTARTS",
    "DETECT MEAN",
    "MEDIAN",
    "MAX",
    "REPAIR MEAN",
    "MEDIAN",
    "MAX",
)
PROGRESS_EVERY = 50_000


class By(StrEnum):
    """How to divide the period."""

    DAY = "day"
    HOUR = "hour"


class AvailabilityView(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a period (Unix milliseconds), of each pipeline followed by its components; see docs/availability.md."""

    begin_ms: int
    end_ms: int
    rows: list[Figures]


@callback(app, "flowctl report availability", "flowctl report availability orders --from '7 days ago' --by day")
def report(session: Session, ctx: typer.Context) -> None:
    """Show figures over a period, from the journal alone and so also when nothing runs."""
    del session
    if ctx.invoked_subcommand is None:
        raise UserError("say what to report: availability", hint="flowctl report availability PIPELINE")


@command(
    app,
    "flowctl report availability",
    "flowctl report availability orders --from '7 days ago' --by day",
    "flowctl report availability --from yesterday --to today --chart availability.svg",
    "flowctl report availability --json | jq '.rows[] | {subject, availability}'",
)
def availability(
    session: Session,
    *,
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="Only this one.", autocompletion=completion.pipelines)
    ] = None,
    from_: Annotated[str, typer.Option("--from", metavar="TIME|SEQ", help="From when; the journal's begin by default.")] = "1",
    to: Annotated[str, typer.Option("--to", metavar="TIME|SEQ", help="Until when.")] = "now",
    by: Annotated[By | None, typer.Option("--by", help="A row for each day or hour.")] = None,
    chart: Annotated[Path | None, typer.Option("--chart", metavar="FILE.svg", help="Draw a picture there.")] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show how well pipelines and components were: availability, failures, restarts, times to detect and to repair.

    While the journal was away nobody knows: that is unknown, not down. docs/availability.md says exactly what each figure is.
    """
    name = check_id(pipeline, "pipeline") if pipeline is not None else None
    if chart is not None and chart.suffix.lower() != ".svg":
        raise UserError(f"{chart.name!r} is no name for a chart", hint="charts are SVG: name a file that ends in .svg")
    record, begin_ns, end_ns = run(_read(session, parse_instant(from_), parse_instant(to), name, timeout_s=timeout))
    subjects = record.subjects()
    cuts = _cuts(begin_ns, end_ns, by)
    rows = [record.figures(subject, ids, low, high) for subject, ids in subjects for low, high in itertools.pairwise(cuts)]
    if chart is not None:
        _draw(chart, record, begin_ns, end_ns)
    if json:
        print_json(AvailabilityView(begin_ms=begin_ns // 1_000_000, end_ms=end_ns // 1_000_000, rows=rows))
    elif not rows:
        note("nothing was to run in that time")
    else:
        print_table(HEAD, [_row(each) for each in rows])


async def _read(session: Session, from_: Instant, to: Instant, name: str | None, *, timeout_s: float) -> tuple[Record, int, int]:
    from flowctl import past
    from flowctl.spec.problems import did_you_mean

    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        store = control.store
        before, after = await past.moment(store, from_), await past.moment(store, to)
        if before.seq > after.seq or before.time_ns > after.time_ns:
            raise UserError("--from lies after --to", hint="exchange the two")
        fleet = await past.fleet_at(store, before.seq)
        record = Record(fleet, before.time_ns, name)
        count = 0
        async for entry in store.journal.read(after=before.seq, upto=after.seq):
            record.apply(entry)
            count += 1
            if count % PROGRESS_EVERY == 0:
                note(f"{count:,} entries are read, up to {entry.seq:,} of {after.seq:,}")
        if name is not None and name not in fleet.pipelines and not fleet.members.get(name):
            hint = did_you_mean(name, fleet.pipelines) or "`flowctl status` shows all of them"
            raise UserError(f"there was no pipeline {name!r} up to entry {after.seq}", hint=hint)
        return record, before.time_ns, after.time_ns


def _cuts(begin_ns: int, end_ns: int, by: By | None) -> list[int]:
    """Where the period is divided: at midnights or full hours of this host's zone."""
    cuts = [begin_ns]
    if by is not None:
        at = datetime.fromtimestamp(begin_ns / 1e9).replace(minute=0, second=0, microsecond=0)  # noqa: DTZ006 - local, by intent
        at = at.replace(hour=0) if by is By.DAY else at
        step = timedelta(days=1) if by is By.DAY else timedelta(hours=1)
        while (cut := int((at := at + step).timestamp()) * 1_000_000_000) < end_ns:
            cuts.append(cut)
    return [*cuts, end_ns]


def _row(figures: Figures) -> list[Cell]:
    start = datetime.fromtimestamp(figures.begin_ms / 1e3).astimezone().strftime("%Y-%m-%d %H:%M")
    seconds = [
        figures.detect_mean_s, figures.detect_median_s, figures.detect_max_s,
        figures.repair_mean_s, figures.repair_median_s, figures.repair_max_s,
    ]  # fmt: skip
    return [
        Cell(
            figures.subject if "." not in figures.subject else f"  {figures.subject}", "" if "." in figures.subject else "strong"
        ),
        Cell(start, "faint"),
        Cell(_share(figures)),
        *(Cell(_length(value)) for value in (figures.up_s, figures.down_s, figures.unknown_s)),
        Cell(f"{figures.failures}{f' ({figures.open} open)' if figures.open else ''}"),
        Cell(str(figures.restarts)),
        *(Cell("" if value is None else _length(value)) for value in seconds),
    ]


def _length(seconds: float) -> str:
    """A span of time, with three digits where a second is much."""
    return f"{seconds:.3g}s" if 1 <= seconds < 60 else age(seconds * 1_000)


def _share(figures: Figures) -> str:
    """Rounded down, so that 100 % is only what was never down."""
    if figures.availability is None:
        return "-"
    return "100 %" if figures.availability >= 1 else f"{int(figures.availability * 100_000) / 1_000:.3f} %"


def _draw(file: Path, record: Record, begin_ns: int, end_ns: int) -> None:
    from flowctl_cli.chart import Bar, svg

    bars = [
        Bar(
            subject,
            record.track(ids, begin_ns, end_ns),
            _share(record.figures(subject, ids, begin_ns, end_ns)),
            "." not in subject,
        )
        for subject, ids in record.subjects()
    ]
    try:
        file.write_text(svg("Availability", bars, begin_ns, end_ns))
    except OSError as error:
        raise UserError(f"the chart cannot be written: {error}") from error
    note(f"wrote {file}")
