"""``flowctl history``."""

import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import typer

from flowctl.errors import UserError
from flowctl.journal.log import Entry, Journal
from flowctl_cli import plane
from flowctl_cli.entries import WIDTHS, Selection, entry_row, entry_view, event_types, moment
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import Target
from flowctl_cli.terminal import RowPrinter, note, write

app = new_app()


@command(
    app,
    "flowctl history orders",
    "flowctl history orders.enrich --since 1h",
    "flowctl history --type ComponentExited --type ComponentFailed --json",
    "flowctl history orders --after 1200 --limit 50",
)
def history(
    session: Session,
    *,
    target: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE[.COMPONENT[.INDEX]]]", help="Of whom; all if left out.")
    ] = None,
    component: Annotated[str | None, typer.Option("--component", metavar="ID", help="Only of this component.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="NAME", help="Only events of this type; repeatable.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Not before; 15m means 15 minutes ago.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Not after.")] = None,
    after: Annotated[int, typer.Option("--after", metavar="SEQ", min=0, help="Only entries after this sequence number.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="At most the N newest; all by default.")
    ] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show past events of the journal, oldest first.

    Works without a running server too: then the state directory's journal is opened for as long as this takes.
    """
    now_ns = time.time_ns()
    selection = Selection(
        target=select(target, component),
        types=event_types(type_ or []),
        since_ns=moment(since, now_ns=now_ns) if since else None,
        until_ns=moment(until, now_ns=now_ns) if until else None,
    )
    run(_show(session, selection, after=after, limit=limit, json=json, timeout_s=timeout))


def select(target: str | None, component: str | None) -> Target | None:
    """Whom the words mean.

    Raises:
        UserError: a component without its pipeline, or two components.
    """
    if target is None:
        if component is not None:
            raise UserError("--component needs the pipeline too", hint="for example flowctl history orders --component enrich")
        return None
    chosen = Target.parse(target)
    if component is None:
        return chosen
    if chosen.component not in (None, component):
        raise UserError(f"{target} and --component {component} name two components")
    return Target.parse(f"{chosen.pipeline}.{component}") if chosen.component is None else chosen


async def _show(session: Session, selection: Selection, *, after: int, limit: int | None, json: bool, timeout_s: float) -> None:
    count = 0
    rows = RowPrinter(WIDTHS)
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        async for entry in _read(control.store.journal, selection, after=after, limit=limit):
            if json:
                write("[" if count == 0 else ",\n")
                write(msgspec.json.encode(entry_view(entry)).decode())
            else:
                rows.print(entry_row(entry))
            count += 1
    if json:
        write("]\n" if count else "[]\n")
    elif count == 0:
        note("no such events")


async def _read(journal: Journal, selection: Selection, *, after: int, limit: int | None) -> AsyncIterator[Entry]:
    """The selected entries, oldest first; with ``limit`` the newest so many of them."""
    newest: deque[Entry] = deque(maxlen=limit or 0)
    async for entry in journal.read(after=after, subject=selection.subject):
        if not selection.has(entry):
            continue
        if limit is None:
            yield entry
        else:
            newest.append(entry)
    for entry in newest:
        yield entry
