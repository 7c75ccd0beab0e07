"""``flowctl scale``."""

from typing import Annotated

import typer

from flowctl import api
from flowctl_cli import plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import replicas
from flowctl_cli.terminal import print_json, say

app = new_app()


@command(app, "flowctl scale orders.enrich=3", "flowctl scale orders.enrich=1 --json")
def scale(
    session: Session,
    *,
    change: Annotated[str, typer.Argument(metavar="PIPELINE.COMPONENT=N", help="The component and its new number of instances.")],
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Change how many instances a component has. Holds until the pipeline's file is submitted again."""
    target, count = replicas(change)
    request = api.Scale(pipeline=target.pipeline, component=target.component or "", replicas=count)
    done = run(_scale(session, request, timeout_s=timeout))
    if json:
        print_json(done)
    else:
        say(f"{target} is to have {count} {'instance' if count == 1 else 'instances'} (journal entry {done.seq})")


async def _scale(session: Session, request: api.Scale, *, timeout_s: float) -> api.Done:
    async with plane.opened(session, timeout_s=timeout_s) as control:
        return await control.ask(api.ORCHESTRATOR, "scale", request, api.Done)
