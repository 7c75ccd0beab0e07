"""``flowctl run``: the same as ``up`` in the foreground."""

import asyncio

import typer

from flowctl_cli.commands.up import FileArgument, FreshOption, LogsOption, UpTimeoutOption, Wish, YesOption, pursue, request_of
from flowctl_cli.session import JsonOption, Session, command, new_app

app = new_app()


@command(app, "flowctl run pipeline.yaml", "flowctl run --log-level=debug pipeline.yaml")
def run(
    session: Session,
    *,
    file: FileArgument,
    timeout: UpTimeoutOption = None,
    fresh: FreshOption = False,
    logs: LogsOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Run a pipeline in the foreground and follow it until it ends: the same as `up` without --detach."""
    wish = Wish(file=file, timeout_s=timeout, fresh=fresh, logs=logs, json=json, yes=yes)
    raise typer.Exit(asyncio.run(pursue(session, wish, lambda: request_of(wish))))
