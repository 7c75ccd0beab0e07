"""``flowctl hosts``."""

from flowctl.api import StatusView
from flowctl_cli import plane, questions
from flowctl_cli.board import HOST_HEAD, host_row
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.terminal import note, print_json, print_table

app = new_app()


@command(app, "flowctl hosts", "flowctl hosts --json")
def hosts(session: Session, *, json: JsonOption = False, timeout: TimeoutOption = DEFAULT_TIMEOUT_S) -> None:
    """Show the hosts: whether they are up, the drivers and labels that they offer, and how much runs on them."""
    view = run(_ask(session, timeout_s=timeout))
    if json:
        print_json(view.hosts)
    elif view.hosts:
        print_table(HOST_HEAD, [host_row(host, view.time_ms) for host in view.hosts])
    else:
        note("no host has joined; start an agent with `flowctl-agent` or `flowctl server`")


async def _ask(session: Session, *, timeout_s: float) -> StatusView:
    async with plane.opened(session, timeout_s=timeout_s) as control:
        return await questions.status(control)
