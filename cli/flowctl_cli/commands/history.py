"""``flowctl history``."""

import csv
import io
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Protocol, cast

import msgspec
import typer

from flowctl.errors import UserError
from flowctl.ids import check_id
from flowctl.instants import Instant, parse_instant
from flowctl.journal.heartbeats import StoredBeat
from flowctl.journal.log import Entry
from flowctl.journal.paging import newest_first
from flowctl.journal.store import Store
from flowctl_cli import completion, plane
from flowctl_cli.entries import CSV_HEAD, WIDTHS, Selection, beat_row, beat_view, csv_row, entry_row, entry_view, event_types
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import select
from flowctl_cli.terminal import RowPrinter, note, write

app = new_app()


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of the selected entries is wanted, and in which order. ``before`` and ``after`` exclude their own sequence."""

    selection: Selection
    since: Instant | None = None
    until: Instant | None = None
    after: int | None = None
    before: int | None = None
    limit: int | None = None
    reverse: bool = False
    heartbeats: bool = False


@command(
    app,
    "flowctl history orders --limit 20",
    "flowctl history orders.enrich --since '1 hour ago'",
    "flowctl history --type ComponentExited --type ComponentFailed --json",
    "flowctl history --after 1200 --limit 50                 # page by page: the 50 after 1200",
    "flowctl history --before 1200 --limit 50 --reverse      # and back",
    "flowctl history --correlation 3f6c… --csv > what-came-of-it.csv",
)
def history(
    session: Session,
    *,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[PIPELINE[.COMPONENT[.INDEX]]]", help="Of whom; all if left out.", autocompletion=completion.targets
        ),
    ] = None,
    component: Annotated[str | None, typer.Option("--component", metavar="ID", help="Only of this component.")] = None,
    index: Annotated[int | None, typer.Option("--index", metavar="N", min=0, help="Only of instances with this index.")] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", help="Only of this host.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="NAME", help="Only events of this type; repeatable.")
    ] = None,
    actor: Annotated[
        list[str] | None,
        typer.Option("--actor", metavar="NAME", help="Only written by agent, agent/HOST, cli/USER, health, …; repeatable."),
    ] = None,
    correlation: Annotated[
        str | None, typer.Option("--correlation", metavar="NAME", help="Only what came of the command with this correlation.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME|SEQ", help="Not before; `15m` means 15 minutes ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME|SEQ", help="Not after.")] = None,
    after: Annotated[
        int | None, typer.Option("--after", metavar="SEQ", min=0, help="Only after this sequence; --limit takes the first ones.")
    ] = None,
    before: Annotated[int | None, typer.Option("--before", metavar="SEQ", min=1, help="Only before this sequence.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="At most the N newest; all by default.")
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Newest first.")] = False,
    heartbeats: Annotated[
        bool, typer.Option("--heartbeats", help="Heartbeats too, where they are still there, in order of time.")
    ] = False,
    csv_: Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.")] = False,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show past events of the journal, oldest first.

    Only what is asked for is read: the server filters by subject, --limit reads from the end and --since from its place on.
    Works without a running server too: then the state directory's journal is opened for as long as this takes.
    """
    chosen = select(target, component)
    if host is not None and (chosen is not None or index is not None):
        raise UserError("--host is about hosts, and a target or --index about instances", hint="give one of them")
    if chosen is not None and chosen.index is not None and index not in (None, chosen.index):
        raise UserError(f"{target} and --index {index} name two instances")
    if csv_ and json:
        raise UserError("--csv and --json exclude each other")
    if heartbeats and (limit is not None or reverse or after is not None or before is not None):
        raise UserError(
            "--heartbeats go with --since and --until, not with --limit, --reverse, --after or --before",
            hint="heartbeats have sequences of their own",
        )
    wish = Wish(
        selection=Selection(
            target=chosen,
            host=check_id(host, "host") if host is not None else None,
            index=index,
            types=event_types(type_ or []),
            actors=tuple(actor or ()),
            correlation=correlation,
        ),
        since=parse_instant(since) if since is not None else None,
        until=parse_instant(until) if until is not None else None,
        after=after,
        before=before,
        limit=limit,
        reverse=reverse,
        heartbeats=heartbeats,
    )
    printer: Printer = _Json() if json else _Csv() if csv_ else _Rows()
    run(_show(session, wish, printer, timeout_s=timeout))


async def _show(session: Session, wish: Wish, printer: "Printer", *, timeout_s: float) -> None:
    first = last = 0
    async with (
        plane.opened(session, timeout_s=timeout_s, offline=True) as control,
        aclosing(_merged(control.store, wish)) as found,
    ):
        async for each in found:
            printer.print(each)
            if isinstance(each, Entry):
                first, last = first or each.seq, each.seq
    printer.end()
    if wish.limit is not None and isinstance(printer, _Rows) and first:
        low, high = min(first, last), max(first, last)
        note(f"older: --before {low} --limit {wish.limit}; newer: --after {high} --limit {wish.limit}")


async def _merged(store: Store, wish: Wish) -> AsyncGenerator[Entry | StoredBeat]:
    """The wanted entries, with the heartbeats among them where they are wanted too."""
    from flowctl_cli.spans import bounds, time_at

    after, upto = await bounds(store, wish.since, wish.until)
    after = max(after, wish.after or 0)
    upto = upto if wish.before is None else min(upto, wish.before - 1)
    entries = _entries(store, wish, after=after, upto=upto)
    if not wish.heartbeats:
        async for entry in entries:
            yield entry
        return
    now_ns = store.journal.now_ns()
    since_ns = await time_at(store, wish.since, now_ns) if wish.since is not None else 0
    until_ns = await time_at(store, wish.until, now_ns) if wish.until is not None else now_ns
    beats = aiter(store.heartbeats.read(since_ns=since_ns, subject=wish.selection.beats))
    beat = await anext(beats, None)
    async for entry in entries:
        while beat is not None and beat.time_ns <= min(entry.time_ns, until_ns):
            yield beat
            beat = await anext(beats, None)
        yield entry
    while beat is not None and beat.time_ns <= until_ns:
        yield beat
        beat = await anext(beats, None)


async def _entries(store: Store, wish: Wish, *, after: int, upto: int) -> AsyncGenerator[Entry]:
    selection, limit = wish.selection, wish.limit
    from_the_end = limit is not None and wish.after is None
    if from_the_end or (wish.reverse and limit is None):
        newest: list[Entry] = []
        async with aclosing(newest_first(store.journal, after=after, upto=upto, subject=selection.subjects)) as backwards:
            async for entry in backwards:
                if not selection.has(entry):
                    continue
                if limit is None:
                    yield entry
                    continue
                newest.append(entry)
                if len(newest) >= limit:
                    break
        for entry in newest if wish.reverse else reversed(newest):
            yield entry
        return
    first: list[Entry] = []
    count = 0
    reading = cast("AsyncGenerator[Entry]", store.journal.read(after=after, upto=upto, subject=selection.subjects))
    async with aclosing(reading) as forwards:
        async for entry in forwards:
            if not selection.has(entry):
                continue
            if wish.reverse:
                first.append(entry)
            else:
                yield entry
            count += 1
            if count == limit:
                break
    for entry in reversed(first) if wish.reverse else ():
        yield entry


class Printer(Protocol):
    """Prints what is found, one by one."""

    def print(self, found: Entry | StoredBeat) -> None:
        """One of them."""
        ...

    def end(self) -> None:
        """That was the last."""
        ...


class _Rows:
    def __init__(self) -> None:
        self._rows = RowPrinter(WIDTHS)
        self._empty = True

    def print(self, found: Entry | StoredBeat) -> None:
        self._empty = False
        self._rows.print(entry_row(found) if isinstance(found, Entry) else beat_row(found))

    def end(self) -> None:
        if self._empty:
            note("no such events")


class _Json:
    def __init__(self) -> None:
        self._empty = True

    def print(self, found: Entry | StoredBeat) -> None:
        write("[" if self._empty else ",\n")
        self._empty = False
        write(msgspec.json.encode(entry_view(found) if isinstance(found, Entry) else beat_view(found)).decode())

    def end(self) -> None:
        write("[]\n" if self._empty else "]\n")


class _Csv:
    def __init__(self) -> None:
        self._line(CSV_HEAD)

    def print(self, found: Entry | StoredBeat) -> None:
        self._line(csv_row(entry_view(found) if isinstance(found, Entry) else beat_view(found)))

    def end(self) -> None:
        pass

    def _line(self, values: "list[str] | tuple[str, ...]") -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        write(text.getvalue())
