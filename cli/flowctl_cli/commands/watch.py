"""``flowctl watch``."""

from typing import Annotated

import msgspec
import typer

from flowctl.errors import JournalUnavailableError
from flowctl_cli import plane
from flowctl_cli.entries import WIDTHS, Selection, entry_row, entry_view, event_types
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import select
from flowctl_cli.terminal import RowPrinter, note, say

app = new_app()


@command(
    app,
    "flowctl watch",
    "flowctl watch orders --type PipelineStatusChanged",
    "flowctl watch --after 0 --json | jq -r .type",
)
def watch(
    session: Session,
    *,
    target: Annotated[str | None, typer.Argument(metavar="[PIPELINE[.COMPONENT[.INDEX]]]", help="Whom; all if left out.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="NAME", help="Only events of this type; repeatable.")
    ] = None,
    after: Annotated[
        int | None,
        typer.Option("--after", metavar="SEQ", min=0, help="Begin after this sequence number; with what is new by default."),
    ] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Follow the journal: every event as it happens, until Ctrl-C.

    With --json one object a line. When the control plane goes away, watch waits for it and goes on without a gap.
    """
    selection = Selection(target=select(target, None), types=event_types(type_ or []))
    run(_follow(session, selection, after=after, json=json, timeout_s=timeout))


async def _follow(session: Session, selection: Selection, *, after: int | None, json: bool, timeout_s: float) -> None:
    import asyncio

    rows = RowPrinter(WIDTHS)
    async with plane.opened(session, timeout_s=timeout_s) as control:
        journal = control.store.journal
        seen = await journal.last_sequence() if after is None else after
        said = False
        while True:
            try:
                async for entry in journal.follow(after=seen, subject=selection.subjects):
                    seen, said = entry.seq, False
                    if not selection.has(entry):
                        continue
                    if json:
                        say(msgspec.json.encode(entry_view(entry)).decode())
                    else:
                        rows.print(entry_row(entry))
            except JournalUnavailableError as error:
                if not said:
                    note(f"waiting for the journal: {error.message}")
                said = True
                await asyncio.sleep(0.5)
