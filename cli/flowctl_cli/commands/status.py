"""``flowctl status``."""

import asyncio
import shutil
import sys
from typing import Annotated

import typer

from flowctl.errors import EXIT_FAILED, ControlPlaneUnreachableError, DeadlineError, UserError
from flowctl.ids import check_id
from flowctl.instants import Instant, parse_instant
from flowctl_cli import board, plane, questions
from flowctl_cli.plane import Plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, AtOption, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.terminal import coloured, note, print_json, say

app = new_app()


@command(
    app,
    "flowctl status",
    "flowctl status orders --watch",
    "flowctl status orders --edges",
    "flowctl status orders --at '10 minutes ago'",
    "flowctl status --json | jq '.pipelines[].instances[] | {instance, phase, waiting_for}'",
)
def status(
    session: Session,
    *,
    pipeline: Annotated[str | None, typer.Argument(metavar="[PIPELINE]", help="Only this one.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, max=3600, help="How often, with --watch.")] = 1.0,
    edges: Annotated[bool, typer.Option("--edges", help="Show every edge too, and check that its counters add up.")] = False,
    at: AtOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show pipelines and their instances: phase, health, rates, and for what each one waits that waits.

    With --at it says exactly what it would have said then, from the journal alone and so also when nothing runs; rates and the
    counters of edges are not in the journal.

    With --watch and --json one object a line. --edges shows of every edge the events and how many wait, for how long the oldest
    one, the time to an acknowledgement (median, 99 %), the age of events on arrival, credit, what was sent again and what was
    dropped, and whether the counters add up: exactly where both ends have ended. It exits 1 if they do not.
    """
    name = check_id(pipeline, "pipeline") if pipeline is not None else None
    if at is not None:
        if watch or edges:
            raise UserError(f"--at cannot be combined with --{'watch' if watch else 'edges'}: what was is in the journal only")
        run(_then(session, name, parse_instant(at), json=json, timeout_s=timeout))
        return
    run(_status(session, name, every_s=every if watch else None, edges=edges, json=json, timeout_s=timeout))


async def _status(
    session: Session, name: str | None, *, every_s: float | None, edges: bool, json: bool, timeout_s: float
) -> None:
    async with plane.opened(session, timeout_s=timeout_s) as control:
        if every_s is None:
            found = await questions.board(control, name)
            if json:
                print_json(board.as_json(found, edges=edges))
            else:
                _print(found, edges=edges)
            if edges and board.violations(found):
                raise typer.Exit(EXIT_FAILED)
        elif json or not sys.stdout.isatty():
            await _repeat(control, name, every_s=every_s, edges=edges, json=json)
        else:
            await _redraw(control, name, every_s=every_s, edges=edges)


async def _then(session: Session, name: str | None, instant: Instant, *, json: bool, timeout_s: float) -> None:
    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        found = board.Board.of(await questions.status_at(control, instant, name), None)
    if json:
        print_json(board.as_json(found))
    else:
        _print(found, edges=False, none="there were no pipelines")


def _print(found: board.Board, *, edges: bool, none: str = "there are no pipelines; start one with `flowctl up FILE`") -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in board.text(found, edges=edges, colour=coloured(sys.stdout), width=width):
        say(line)
    if not found.status.pipelines:
        note(none)


async def _repeat(control: Plane, name: str | None, *, every_s: float, edges: bool, json: bool) -> None:
    while True:
        try:
            found = await questions.board(control, name)
        except (ControlPlaneUnreachableError, DeadlineError) as error:
            note(f"waiting for the control plane: {error.message}")
        else:
            if json:
                print_json(board.as_json(found, edges=edges), indent=False)
            else:
                _print(found, edges=edges)
                say()
        await asyncio.sleep(every_s)


async def _redraw(control: Plane, name: str | None, *, every_s: float, edges: bool) -> None:
    from flowctl_cli.screen import Screen

    with Screen() as screen:
        while True:
            try:
                found = await questions.board(control, name)
            except (ControlPlaneUnreachableError, DeadlineError) as error:
                screen.say(f"waiting for the control plane: {error.message}")
            else:
                lines = board.text(found, edges=edges, colour=screen.colour, width=screen.width)
                screen.show(lines or ["there are no pipelines"])
            await asyncio.sleep(every_s)
