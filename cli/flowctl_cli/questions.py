"""The questions that several commands ask the services."""

from flowctl import api
from flowctl.api import LiveAnswer, LiveRequest, StatusRequest, StatusView
from flowctl.errors import ControlPlaneUnreachableError, DeadlineError, NotFoundError
from flowctl.instants import Instant
from flowctl_cli.board import Board
from flowctl_cli.plane import Plane
from flowctl_cli.terminal import clock_time, note


async def status(control: Plane, pipeline: str | None = None) -> StatusView:
    """Everything, or one pipeline.

    Raises:
        NotFoundError: there is no such pipeline.
    """
    view = await control.ask(api.ORCHESTRATOR, "status", StatusRequest(pipeline=pipeline), StatusView)
    if pipeline is not None and not view.pipelines:
        raise NotFoundError(f"there is no pipeline {pipeline!r}", hint="`flowctl status` shows all of them")
    return view


async def status_at(control: Plane, instant: Instant, pipeline: str | None = None) -> StatusView:
    """What the orchestrator would have said at that instant, from nothing but the journal.

    Raises:
        UserError: the journal has not come that far, or had not begun.
        NotFoundError: there was no such pipeline.
    """
    from flowctl import past
    from flowctl_orchestrator.views import answer

    at = await past.moment(control.store, instant)
    fleet = await past.fleet_at(control.store, at.seq)
    if pipeline is not None and pipeline not in fleet.pipelines:
        raise NotFoundError(f"there was no pipeline {pipeline!r} after entry {at.seq} of the journal")
    view = answer(fleet, at.time_ns, pipeline=pipeline)
    note(f"as it was after entry {at.seq}, {clock_time(at.time_ns)}" if at.seq else "as it was before the journal's first entry")
    return view


async def board(control: Plane, pipeline: str | None = None) -> Board:
    """The status with the last heartbeats; without them where no registry answers, because the status stands by itself."""
    import asyncio

    view, live = await asyncio.gather(status(control, pipeline), _live(control, pipeline))
    return Board.of(view, live)


async def _live(control: Plane, pipeline: str | None) -> LiveAnswer | None:
    try:
        return await control.ask(api.REGISTRY, "live", LiveRequest(pipeline=pipeline), LiveAnswer)
    except (ControlPlaneUnreachableError, DeadlineError):
        return None
