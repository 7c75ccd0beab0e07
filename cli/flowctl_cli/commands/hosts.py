"""``flowctl hosts``, ``flowctl hosts drain``, ``flowctl hosts undrain``."""

import asyncio
from typing import Annotated, Final

import typer

from flowctl import api
from flowctl.api import StatusView
from flowctl.errors import DeadlineError
from flowctl.ids import check_id
from flowctl.instants import Instant, parse_instant
from flowctl_cli import plane, questions
from flowctl_cli.board import HOST_HEAD, about, host_row
from flowctl_cli.session import DEFAULT_TIMEOUT_S, AtOption, JsonOption, Session, TimeoutOption, callback, command, new_app, run
from flowctl_cli.terminal import note, print_json, print_table, say

app = new_app()

CALL_S: Final = 10.0
LOOK_S: Final = 0.2
_OVER: Final = frozenset({"completed", "stopped", "failed"})

HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="The host's name.")]


@callback(
    app,
    "flowctl hosts",
    "flowctl hosts --at 'yesterday 12:00'",
    "flowctl hosts --json",
    "flowctl hosts drain h2 --reason 'new kernel'",
    "flowctl hosts undrain h2",
)
def hosts(
    session: Session,
    ctx: typer.Context,
    *,
    at: AtOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Show the hosts: whether they are up, the drivers and labels that they offer, and how much runs on them.

    With --at as they were then, from the journal alone and so also when nothing runs.
    """
    if ctx.invoked_subcommand is None:
        _show(session, at, json=json, timeout_s=timeout)


@command(app, "flowctl hosts list", "flowctl hosts list --json", name="list")
def list_(session: Session, *, at: AtOption = None, json: JsonOption = False, timeout: TimeoutOption = DEFAULT_TIMEOUT_S) -> None:
    """Show the hosts, as `flowctl hosts` does."""
    _show(session, at, json=json, timeout_s=timeout)


@command(app, "flowctl hosts drain h2", "flowctl hosts drain h2 --reason 'new kernel' --timeout 300", name="drain")
def drain(
    session: Session,
    *,
    host: HostArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the journal.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when nothing runs there any more.")] = True,
    json: JsonOption = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, max=86_400, help="How long it may take.")
    ] = 120.0,
) -> None:
    """Empty a host: what it runs goes to other hosts, one instance of a pipeline at a time, and nothing new is placed there.

    An instance for which there is no other host stays where it is, and the command says so. Holds until `hosts undrain`.
    """
    check_id(host, "host")
    run(_drain(session, api.DrainHost(host=host, reason=reason), wait=wait, json=json, timeout_s=timeout))


@command(app, "flowctl hosts undrain h2", name="undrain")
def undrain(
    session: Session, *, host: HostArgument, json: JsonOption = False, timeout: TimeoutOption = DEFAULT_TIMEOUT_S
) -> None:
    """Use a drained host again. Nothing that has left it is moved back."""
    check_id(host, "host")
    done = run(_undrain(session, api.UndrainHost(host=host), timeout_s=timeout))
    if json:
        print_json(done)
    else:
        say(f"{host} takes instances again (journal entry {done.seq})")


def _show(session: Session, at: str | None, *, json: bool, timeout_s: float) -> None:
    view = run(_ask(session, parse_instant(at) if at is not None else None, timeout_s=timeout_s))
    if json:
        print_json(view.hosts)
    elif view.hosts:
        print_table(HOST_HEAD, [host_row(host, view.time_ms) for host in view.hosts])
    elif at is not None:
        note("no host had joined")
    else:
        note("no host has joined; start an agent with `flowctl agent` or `flowctl server`")


async def _ask(session: Session, instant: Instant | None, *, timeout_s: float) -> StatusView:
    async with plane.opened(session, timeout_s=timeout_s, offline=instant is not None) as control:
        return await (questions.status(control) if instant is None else questions.status_at(control, instant))


async def _undrain(session: Session, request: api.UndrainHost, *, timeout_s: float) -> api.Done:
    async with plane.opened(session, timeout_s=timeout_s) as control:
        return await control.ask(api.ORCHESTRATOR, "undrain", request, api.Done)


async def _drain(session: Session, request: api.DrainHost, *, wait: bool, json: bool, timeout_s: float) -> None:
    """Ask, and look on until the host is empty.

    Raises:
        DeadlineError: something still runs there, and why.
    """
    async with plane.opened(session, timeout_s=min(timeout_s, CALL_S)) as control:
        done = await control.ask(api.ORCHESTRATOR, "drain", request, api.Done)
        if not json:
            say(f"{request.host} is drained (journal entry {done.seq})")
        if wait:
            await _until_empty(control, request.host, timeout_s=timeout_s, quiet=json)
        if json:
            print_json(done)


async def _until_empty(control: plane.Plane, host: str, *, timeout_s: float, quiet: bool) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    before: dict[str, str] | None = None
    while True:
        left = _left_on(await questions.status(control), host)
        if before is not None and not quiet:
            for name in sorted(before.keys() - left.keys()):
                say(f"{name} has left {host}")
        before = left
        if not left:
            if not quiet:
                say(f"nothing runs on {host} any more")
            return
        if loop.time() >= deadline:
            lines = [f"  {name}{f': {why}' if why else ''}" for name, why in sorted(left.items())]
            message = f"{host} is not empty after {timeout_s:g} s; it goes on being emptied:"
            raise DeadlineError("\n".join([message, *lines]))
        await asyncio.sleep(min(LOOK_S, max(0.0, deadline - loop.time())))


def _left_on(view: StatusView, host: str) -> dict[str, str]:
    """What still is on the host, and what is said of it."""
    there = [
        each
        for pipeline in view.pipelines
        for each in pipeline.instances
        if each.runs_on == host or (each.host == host and each.phase != "waiting")  # it was there, and waits for another host
    ]
    return {each.instance: about(each) or each.waiting_for for each in there if each.phase not in _OVER}
