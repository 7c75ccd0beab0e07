"""``flowctl diff``."""

import shutil
import sys
from typing import Annotated, Any

import msgspec
import typer
from msgspec import field

from flowctl.differences import Change, Comparison
from flowctl.errors import EXIT_FAILED, UserError
from flowctl.ids import check_id
from flowctl.instants import Instant, parse_instant
from flowctl.journal.log import Entry
from flowctl.sentences import sentence
from flowctl_cli import completion, plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.terminal import clock_time, coloured, note, one_line, paint, print_json, say

app = new_app()

MAX_TOLD = 12
PROGRESS_EVERY = 50_000
MARKS = {"added": "+", "removed": "-", "changed": "~"}


class Place(msgspec.Struct, frozen=True):
    """An instant: after entry ``seq``, at ``time_ms`` (Unix milliseconds)."""

    seq: int
    time_ms: int


class Told(msgspec.Struct, frozen=True):
    """An entry that explains a change."""

    seq: int
    time_ms: int
    type: str
    actor: str
    sentence: str


class DiffView(msgspec.Struct, frozen=True, kw_only=True):
    """What changed between two instants; ``entries`` are those that the changes name."""

    before: Place
    after: Place
    changes: list[Change] = field(default_factory=list[Change])
    entries: list[Told] = field(default_factory=list[Told])


@command(
    app,
    "flowctl diff '10 minutes ago' now",
    "flowctl diff 1200 1300 orders",
    "flowctl diff 'yesterday 18:00' now orders --exit-code",
    "flowctl diff 1 now --json | jq '.changes[] | select(.kind == \"component\")'",
)
def diff(
    session: Session,
    *,
    from_: Annotated[str, typer.Argument(metavar="FROM", help="A sequence, a time, or how long ago.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="The same, or `now`.")],
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="Only this one.", autocompletion=completion.pipelines)
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 if there are differences.")] = False,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show what changed between two instants, and which entries of the journal changed it.

    Pipelines, components, instances and hosts, field by field. What changed and changed back is no difference. From the journal
    alone, and so also when nothing runs.
    """
    name = check_id(pipeline, "pipeline") if pipeline is not None else None
    found = run(_compare(session, parse_instant(from_), parse_instant(to), name, timeout_s=timeout))
    if json:
        print_json(found)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        for line in text(found, width=width, colour=coloured(sys.stdout)):
            say(line)
    if exit_code and found.changes:
        raise typer.Exit(EXIT_FAILED)


async def _compare(session: Session, from_: Instant, to: Instant, name: str | None, *, timeout_s: float) -> DiffView:
    from flowctl import past
    from flowctl.journal.subjects import JOURNAL_ROOT
    from flowctl.spec.problems import did_you_mean

    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        store = control.store
        before, after = await past.moment(store, from_), await past.moment(store, to)
        if before.seq > after.seq:
            raise UserError(f"FROM (entry {before.seq}) lies after TO (entry {after.seq})", hint="exchange the two")
        comparison = Comparison(await past.fleet_at(store, before.seq), name)
        subject = None if name is None else [f"{JOURNAL_ROOT}.component.{name}.>", f"{JOURNAL_ROOT}.pipeline.{name}.*"]
        count = 0
        async for entry in store.journal.read(after=before.seq, upto=after.seq, subject=subject):
            comparison.apply(entry)
            count += 1
            if count % PROGRESS_EVERY == 0:
                note(f"{count:,} entries are compared, up to {entry.seq:,} of {after.seq:,}")
    if name is not None and name not in comparison.fleet.pipelines and not comparison.fleet.members.get(name):
        hint = did_you_mean(name, comparison.fleet.pipelines) or "`flowctl status` shows all of them"
        raise UserError(f"there was no pipeline {name!r} up to entry {after.seq}", hint=hint)
    changes = comparison.changes()
    return DiffView(
        before=Place(before.seq, before.time_ns // 1_000_000),
        after=Place(after.seq, after.time_ns // 1_000_000),
        changes=changes,
        entries=[_told(comparison.entries[seq]) for seq in sorted(comparison.entries)],
    )


def _told(entry: Entry) -> Told:
    return Told(entry.seq, entry.time_ns // 1_000_000, type(entry.event).__name__, entry.actor, sentence(entry))


def text(found: DiffView, *, width: int = 0, colour: bool = False) -> list[str]:
    """The differences as lines."""
    lines: list[str] = []
    subjects: dict[tuple[str, str], list[Change]] = {}
    for change in found.changes:
        subjects.setdefault((change.kind, change.subject), []).append(change)
    place = f"between entry {found.before.seq} and entry {found.after.seq}"
    lines.append(f"{place}: {len(found.changes) or 'no'} differences" if len(found.changes) != 1 else f"{place}: 1 difference")
    entries = {told.seq: told for told in found.entries}
    for (kind, subject), changes in subjects.items():
        lines.append("")
        mark = MARKS[changes[0].change]
        head = f"{mark} {kind} {subject}"
        lines.append(paint(head, {"+": "good", "-": "bad", "~": "strong"}[mark]) if colour else head)  # type: ignore[arg-type]
        column = max((len(change.field) for change in changes), default=0)
        for change in changes:
            lines += _change(change, column)
        numbers = sorted({seq for change in changes for seq in change.entries})
        told = [f"    {seq:>6}  {clock_time(entries[seq].time_ms * 1_000_000)}  {entries[seq].sentence}" for seq in numbers]
        if len(told) > MAX_TOLD:
            told[MAX_TOLD // 2 : -MAX_TOLD // 2] = [f"            … {len(told) - MAX_TOLD} more: flowctl history {subject}"]
        lines += [paint(line, "faint") if colour else line for line in told]
    return [line if not width or colour or len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _change(change: Change, column: int) -> list[str]:
    if change.change == "changed":
        return [f"    {change.field:<{column}}  {_value(change.before)} → {_value(change.after)}"]
    facts: dict[str, Any] = change.after if change.change == "added" else change.before
    shown = ", ".join(f"{key} {_value(value)}" for key, value in facts.items() if value not in ("", None, 0, False, [], {}))
    return [f"    {shown}"]


def _value(value: object) -> str:
    shown = value if isinstance(value, str) else "nothing" if value is None else msgspec.json.encode(value).decode()
    shown = one_line(shown) or "nothing"
    return shown if len(shown) <= 100 else f"{shown[:99]}…"
