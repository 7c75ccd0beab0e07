"""``flowctl down``."""

import asyncio
from collections.abc import Collection
from typing import Annotated

import typer

from flowctl import api
from flowctl.api import PipelineView, StatusView
from flowctl.errors import ControlPlaneUnreachableError, DeadlineError, NotFoundError, UserError
from flowctl_cli import plane, questions, server_record
from flowctl_cli.board import about, differences, ended
from flowctl_cli.plane import Plane
from flowctl_cli.session import Session, command, new_app, run
from flowctl_cli.targets import pipeline_name
from flowctl_cli.terminal import note, say

app = new_app()

CALL_S = 10.0
LOOK_S = 0.1
PATIENCE_S = 20.0


@command(
    app,
    "flowctl down orders",
    "flowctl down pipeline.yaml --timeout 30",
    "flowctl down --all --server",
)
def down(
    session: Session,
    *,
    pipeline: Annotated[str | None, typer.Argument(metavar="[PIPELINE|FILE]", help="Which one.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All pipelines.")] = False,
    server: Annotated[bool, typer.Option("--server", help="Stop the server too, once the pipelines have ended.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, max=86_400, help="How long it may take.")
    ] = 120.0,
) -> None:
    """Stop pipelines and wait until they have stopped: sources first, what is under way is drained.

    Checkpoints are kept: the next `up` of a stopped pipeline goes on where it was. Stopping what has ended already is no error.
    """
    if (pipeline is None) != all_:
        raise UserError("name one pipeline (or its file), or say --all", hint="flowctl status shows what runs")
    name = pipeline_name(pipeline) if pipeline is not None else None
    # A server that ends once its last pipeline has ended must not do so before this command has seen it.
    with server_record.attached_if_any(session.state_dir, timeout_s=CALL_S):
        run(stop_all(session, timeout_s=timeout) if name is None else _stop_one(session, name, timeout_s=timeout))
    if server:
        from flowctl_cli import server_launch

        pid = server_launch.stop(session.state_dir, timeout_s=timeout)
        if pid is not None:
            say(f"the server (pid {pid}) has ended")


async def _stop_one(session: Session, name: str, *, timeout_s: float) -> None:
    async with plane.opened(session, timeout_s=min(timeout_s, CALL_S)) as control:
        status = await questions.status(control, name)
        view = status.pipelines[0]
        if _done(view, lost_hosts(status)):
            say(f"{name} is {view.status} already")
            return
        await stop_and_wait(control, [name], timeout_s=timeout_s)


async def stop_all(session: Session, *, timeout_s: float) -> None:
    """Stop every pipeline that has not ended, and wait.

    Raises:
        DeadlineError: some still run; it says which.
    """
    async with plane.opened(session, timeout_s=min(timeout_s, CALL_S)) as control:
        status = await questions.status(control)
        live = [view.name for view in status.pipelines if not _done(view, lost_hosts(status))]
        if not live:
            note("no pipeline runs")
            return
        await stop_and_wait(control, live, timeout_s=timeout_s)


def _done(view: PipelineView, lost: Collection[str]) -> bool:
    """Whether the pipeline has ended and so has everything that belonged to it, on hosts that can be asked."""
    return ended(view) and not still_there(view, lost)


def lost_hosts(status: StatusView) -> set[str]:
    """The hosts that nobody can say anything of; when they come back they end what is not theirs."""
    return {host.name for host in status.hosts if host.status == "lost"}


def still_there(view: PipelineView, lost: Collection[str] = ()) -> list[str]:
    """The instances that have not ended, each with what it does or waits for; without those on hosts that are ``lost``."""
    present = ("starting", "started", "running", "stopping", "replacing")
    return [
        f"{each.instance} is {each.phase}{f' ({about(each)})' if about(each) else ''}"
        for each in view.instances
        if each.phase in present and (each.runs_on or each.host) not in lost
    ]


async def stop_and_wait(control: Plane, names: list[str], *, timeout_s: float) -> None:
    """Ask for the end of these pipelines and show their way there.

    Raises:
        DeadlineError: some still run; it says which.
    """
    seen: dict[str, PipelineView] = {}
    try:
        async with asyncio.timeout(timeout_s):
            for name in names:
                view = (await questions.status(control, name)).pipelines[0]
                seen[name] = view
                if not ended(view):
                    await control.ask(api.ORCHESTRATOR, "stop", api.Stop(pipeline=name, reason="flowctl down"), api.Done)
            await _watch(control, list(names), seen)
    except TimeoutError:
        left = [line for name in names if name in seen for line in still_there(seen[name])]
        raise DeadlineError(
            f"not stopped within {timeout_s:g} s: {'; '.join(left) or ', '.join(names)}",
            hint="it goes on; `flowctl status` shows how far",
        ) from None


async def _watch(control: Plane, waiting: list[str], seen: dict[str, PipelineView]) -> None:
    """Show what changes until all of them are done with; a control plane that is away for a moment may come back."""
    lost_at: float | None = None
    while waiting:
        try:
            for name in list(waiting):
                if await _look(control, name, seen):
                    waiting.remove(name)
            lost_at = None
        except (ControlPlaneUnreachableError, DeadlineError):
            now = asyncio.get_running_loop().time()
            lost_at = now if lost_at is None else lost_at
            if now - lost_at > PATIENCE_S:
                raise
        if waiting:
            await asyncio.sleep(LOOK_S)


async def _look(control: Plane, name: str, seen: dict[str, PipelineView]) -> bool:
    """Show what has changed; whether the pipeline is done with."""
    try:
        status = await questions.status(control, name)
    except NotFoundError:
        return True
    view = status.pipelines[0]
    for line in differences(seen.get(name), view):
        say(line)
    seen[name] = view
    return _done(view, lost_hosts(status))
