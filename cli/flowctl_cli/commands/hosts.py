"""``flowctl hosts``."""

from flowctl.api import StatusView
from flowctl.instants import Instant, parse_instant
from flowctl_cli import plane, questions
from flowctl_cli.board import HOST_HEAD, host_row
from flowctl_cli.session import DEFAULT_TIMEOUT_S, AtOption, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.terminal import note, print_json, print_table

app = new_app()


@command(app, "flowctl hosts", "flowctl hosts --at 'yesterday 12:00'", "flowctl hosts --json")
def hosts(session: Session, *, at: AtOption = None, json: JsonOption = False, timeout: TimeoutOption = DEFAULT_TIMEOUT_S) -> None:
    """Show the hosts: whether they are up, the drivers and labels that they offer, and how much runs on them.

    With --at as they were then, from the journal alone and so also when nothing runs.
    """
    view = run(_ask(session, parse_instant(at) if at is not None else None, timeout_s=timeout))
    if json:
        print_json(view.hosts)
    elif view.hosts:
        print_table(HOST_HEAD, [host_row(host, view.time_ms) for host in view.hosts])
    elif at is not None:
        note("no host had joined")
    else:
        note("no host has joined; start an agent with `flowctl-agent` or `flowctl server`")


async def _ask(session: Session, instant: Instant | None, *, timeout_s: float) -> StatusView:
    async with plane.opened(session, timeout_s=timeout_s, offline=instant is not None) as control:
        return await (questions.status(control) if instant is None else questions.status_at(control, instant))
