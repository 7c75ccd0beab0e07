"""``flowctl agent``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flowctl.errors import UserError
from flowctl_cli.session import Session, command, new_app

app = new_app()


@command(
    app,
    "flowctl agent --nats nats://10.0.0.1:4222 --name h2 --label gpu=true --label zone=a",
    "flowctl agent --name h2 --registry 10.0.0.1:8080 --advertise 10.0.0.2 --ports 20000-20999",
)
def agent(
    session: Session,
    *,
    name: Annotated[str | None, typer.Option("--name", metavar="ID", help="This host's name; else the machine's.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="K=V", help="A label for placement; may be given more than once.")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option("--registry", metavar="HOST:PORT,…", help="The registries, as components here reach them."),
    ] = None,
    advertise: Annotated[
        str | None, typer.Option("--advertise", metavar="ADDRESS", help="Where other hosts reach components on this one.")
    ] = None,
    ports: Annotated[
        str | None,
        typer.Option("--ports", metavar="FIRST-LAST", help="The ports that components here listen on, two each; any free ones."),
    ] = None,
    http_listen: Annotated[
        str | None, typer.Option("--http-listen", metavar="HOST:PORT", help="Where /health, /ready and /metrics are.")
    ] = None,
) -> None:
    """Join this machine to a control plane as a host, until Ctrl-C or SIGTERM.

    It starts what is placed here, watches it and restarts it. What it has started goes on running when it ends, and the next
    agent on the same state directory takes it over. All other settings come from the environment and the settings file;
    docs/settings.md lists them.
    """
    given: dict[str, Any] = {
        "nats_url": session.explicit_nats or None,
        "state_dir": Path(session.state_dir),
        "log_level": session.log_level or None,
        "name": name,
        "labels": _labels(label or []) or None,
        "registry": registry,
        "advertise_host": advertise,
        "port_range": ports,
        "http_listen": http_listen,
    }
    from flowctl.settings import AgentSettings, load_settings

    settings = load_settings(AgentSettings, **{key: value for key, value in given.items() if value is not None})
    from flowctl.serving import run_service
    from flowctl_agent.service import AgentService

    raise typer.Exit(run_service(settings, "agent", lambda context: AgentService(context, settings)))


def _labels(pairs: list[str]) -> str:
    """As the setting takes them.

    Raises:
        UserError: one is not KEY=VALUE.
    """
    for pair in pairs:
        key, equals, _ = pair.partition("=")
        if not equals or not key.strip() or "," in pair:
            raise UserError(f"--label {pair[:80]!r} is not KEY=VALUE", hint="for example --label gpu=true")
    return ",".join(pairs)
