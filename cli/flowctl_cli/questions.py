"""The questions that several commands ask the services."""

from flowctl import api
from flowctl.api import LiveAnswer, LiveRequest, StatusRequest, StatusView
from flowctl.errors import ControlPlaneUnreachableError, DeadlineError, NotFoundError
from flowctl_cli.board import Board
from flowctl_cli.plane import Plane


async def status(control: Plane, pipeline: str | None = None) -> StatusView:
    """Everything, or one pipeline.

    Raises:
        NotFoundError: there is no such pipeline.
    """
    view = await control.ask(api.ORCHESTRATOR, "status", StatusRequest(pipeline=pipeline), StatusView)
    if pipeline is not None and not view.pipelines:
        raise NotFoundError(f"there is no pipeline {pipeline!r}", hint="`flowctl status` shows all of them")
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
