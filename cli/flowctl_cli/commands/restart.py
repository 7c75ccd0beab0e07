"""``flowctl restart``."""

from typing import Annotated

import typer

from flowctl import api
from flowctl_cli import plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import Target
from flowctl_cli.terminal import print_json, say

app = new_app()


@command(app, "flowctl restart orders", "flowctl restart orders.enrich", "flowctl restart orders.enrich.0")
def restart(
    session: Session,
    *,
    target: Annotated[str, typer.Argument(metavar="PIPELINE[.COMPONENT[.INDEX]]", help="What to restart.")],
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Start instances anew: each is stopped gracefully and started as its next incarnation. Back-off starts over."""
    chosen = Target.parse(target)
    done = run(_restart(session, chosen, timeout_s=timeout))
    if json:
        print_json(done)
    else:
        say(f"restarting {', '.join(done.instances) or chosen} (journal entry {done.seq})")


async def _restart(session: Session, target: Target, *, timeout_s: float) -> api.Done:
    request = api.RestartInstances(pipeline=target.pipeline, component=target.component, index=target.index)
    async with plane.opened(session, timeout_s=timeout_s) as control:
        return await control.ask(api.ORCHESTRATOR, "restart", request, api.Done)
