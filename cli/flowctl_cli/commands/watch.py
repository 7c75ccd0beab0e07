"""``flowctl watch``."""

from typing import Annotated

import typer

from flowctl.errors import UserError
from flowctl.ids import check_id
from flowctl_cli import plane
from flowctl_cli.entries import Selection, event_types
from flowctl_cli.following import Following
from flowctl_cli.hook import Hook, parse
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import select

app = new_app()


@command(
    app,
    "flowctl watch",
    "flowctl watch orders --type PipelineStatusChanged",
    "flowctl watch --after 0 --json | jq -r .type",
    "flowctl watch --type ComponentExited --exec './page.py --team data'",
    "flowctl watch orders --exec ./hook.sh --durable hook --retries 5",
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
    exec_: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="Run this for each event instead of printing it; no shell is used."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, max=100, help="At most N hooks at once; one thing's events in order.")
    ] = 1,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", min=0, max=1000, help="Try a hook that fails N times more.")
    ] = 0,
    exec_timeout: Annotated[
        float, typer.Option("--exec-timeout", metavar="SECONDS", min=0.05, max=86_400, help="How long a hook may take.")
    ] = 60.0,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End with exit code 1 when a hook has failed.")] = False,
    durable: Annotated[
        str | None,
        typer.Option("--durable", metavar="NAME", help="Remember under this name how far it is, and go on there the next time."),
    ] = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Follow the journal: every event as it happens, until Ctrl-C.

    With --json one object a line. When the control plane goes away, watch waits for it and goes on without a gap.

    With --exec a command runs for each event: the event as JSON on its stdin (what --json prints), its CloudEvents attributes
    in the environment (CE_ID, CE_TYPE, CE_SUBJECT, CE_TIME, CE_SEQUENCE ...). A hook that fails is shown on stderr.

    With --durable an event is done when it was printed or its hook has ended; one that was not comes again (with the same
    CE_ID), also after a kill. Hooks then run one at a time.
    """
    selection = Selection(target=select(target, None), types=event_types(type_ or []))
    if durable is not None and parallel > 1:
        raise UserError("--durable runs one hook at a time", hint="leave out --parallel")
    if exec_ is None and (parallel > 1 or retries or fail_fast):
        raise UserError("--parallel, --retries and --fail-fast belong to --exec")
    if exec_ is not None and json:
        raise UserError("--json and --exec exclude each other", hint="the hook gets the JSON on its stdin")
    name = check_id(durable, "durable name") if durable is not None else ""
    hook = Hook(parse(exec_), timeout_s=exec_timeout, retries=retries) if exec_ is not None else None
    following = Following(selection, hook, json=json, fail_fast=fail_fast)
    run(_watch(session, following, after=after, parallel=parallel, durable=name, timeout_s=timeout))


async def _watch(
    session: Session, following: Following, *, after: int | None, parallel: int, durable: str, timeout_s: float
) -> None:
    async with plane.opened(session, timeout_s=timeout_s) as control:
        if durable:
            await following.durably(control.store, f"flowctl-watch-{durable}", after=after)
        else:
            await following.live(control.store.journal, after=after, parallel=parallel)
