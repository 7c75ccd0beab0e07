"""``flowctl server``, ``flowctl server stop``, ``flowctl server status``."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from flowctl.errors import ControlPlaneUnreachableError, RefusedError
from flowctl_cli import server_record
from flowctl_cli.session import JsonOption, Session, callback, command, new_app, run
from flowctl_cli.terminal import note, print_json, say

app = new_app()


@callback(
    app,
    "flowctl server",
    "flowctl server --registry-listen 127.0.0.1:9090 --http-listen 127.0.0.1:9100",
    "flowctl server --detach",
    "flowctl server status",
    "flowctl server stop --pipelines",
)
def server(
    session: Session,
    ctx: typer.Context,
    *,
    registry_listen: Annotated[
        str | None, typer.Option("--registry-listen", metavar="HOST:PORT", help="Where components register.")
    ] = None,
    http_listen: Annotated[
        str | None, typer.Option("--http-listen", metavar="HOST:PORT", help="Where /health, /ready and /metrics are.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="ID", help="This host's name.")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="K=V,...", help="This host's labels for placement, for example gpu=true.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background and return when it is ready.")] = False,
) -> None:
    """Run the control plane: NATS, registry, health, orchestrator and agent in one process, until Ctrl-C or SIGTERM.

    All other settings come from the environment and the settings file; docs/settings.md lists them. Pipelines that run when the
    server ends go on running, and the next server takes them over; `flowctl server stop --pipelines` ends them first.
    """
    if ctx.invoked_subcommand is not None:
        return
    given = {
        "nats_url": session.explicit_nats or None,
        "state_dir": session.state_dir,
        "log_level": session.log_level or None,
        "registry_listen": registry_listen,
        "http_listen": http_listen,
        "name": name,
        "labels": labels,
    }
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if detach:
        _detach(session, chosen)
        return
    from flowctl_cli.server import Orders, serve

    raise typer.Exit(serve(chosen, Orders()))


def _detach(session: Session, chosen: dict[str, Any]) -> None:
    from flowctl_cli.server_launch import Launch, await_record

    holder = server_record.lock_holder(session.state_dir)
    if holder is not None:
        raise RefusedError(
            f"a server (pid {holder}) already runs for the state directory {session.state_dir}",
            hint="use it, stop it with `flowctl server stop`, or name another directory with --state-dir",
        )
    extra = {f"FLOWCTL_{key.upper()}": str(value) for key, value in chosen.items()}
    record = await_record(session.state_dir, launch=Launch(session, bound=False, environment=extra))
    say(f"the server runs (pid {record.pid}); components register at {record.registry}")


@command(app, "flowctl server stop", "flowctl server stop --pipelines", name="stop")
def stop(
    session: Session,
    *,
    pipelines: Annotated[
        bool, typer.Option("--pipelines", help="End all pipelines first; without it they go on running.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, max=86_400, help="How long it may take.")
    ] = 60.0,
) -> None:
    """Stop the server of the state directory and wait until it is gone."""
    from flowctl_cli import server_launch

    if pipelines:
        from flowctl_cli.commands.down import stop_all

        run(stop_all(session, timeout_s=timeout))
    pid = server_launch.stop(session.state_dir, timeout_s=timeout)
    if pid is None:
        note(f"no server runs for the state directory {session.state_dir}")
    else:
        say(f"the server (pid {pid}) has ended")


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """The state directory's server. ``nats`` is without its credential."""

    running: bool
    state_dir: str
    pid: int | None = None
    version: str | None = None
    nats: str | None = None
    registry: str | None = None
    http: str | None = None
    log: str | None = None


@command(
    app,
    "flowctl server status",
    "flowctl server status --json",
    "export NATS_URL=$(flowctl server status --nats-url)",
    name="status",
)
def status(
    session: Session,
    *,
    json: JsonOption = False,
    nats_url: Annotated[
        bool, typer.Option("--nats-url", help="Print the NATS address alone, with its credential, for other NATS clients.")
    ] = False,
) -> None:
    """Show whether the state directory's server runs and how it is reached. Exits with 3 if it does not."""
    view = look(session.state_dir)
    record = server_record.read_record(session.state_dir) if nats_url else None
    if record is not None:
        say(record.nats_url)
        return
    if json:
        print_json(view)
        if not view.running:
            raise typer.Exit(ControlPlaneUnreachableError.exit_code)
        return
    if not view.running:
        raise ControlPlaneUnreachableError(
            f"no server runs for the state directory {session.state_dir}", hint="start one with `flowctl server`"
        )
    say(f"the server runs (pid {view.pid}, flowctl {view.version})")
    for label, value in (
        ("registry", view.registry),
        ("nats", view.nats),
        ("http", view.http or "off"),
        ("state", view.state_dir),
    ):
        say(f"  {label:<9} {value}")
    if view.log:
        say(f"  {'log':<9} {view.log}")


def look(state_dir: Path) -> ServerView:
    """What the state directory tells of its server."""
    from flowctl_cli.server_launch import log_file

    record = server_record.read_record(state_dir)
    if record is None:
        return ServerView(running=False, state_dir=str(state_dir))
    log = log_file(state_dir)
    return ServerView(
        running=True,
        state_dir=str(state_dir),
        pid=record.pid,
        version=record.version,
        nats=without_credential(record.nats_url),
        registry=record.registry,
        http=record.http,
        log=str(log) if log.exists() else None,
    )


def without_credential(url: str) -> str:
    """NATS addresses that may be shown to anybody."""
    return ",".join(part.partition("://")[0] + "://" + part.rpartition("@")[2].rpartition("://")[2] for part in url.split(","))
