"""``flowctl context add``, ``use``, ``list`` and ``remove``."""

from typing import Annotated

import msgspec
import typer

from flowctl.errors import RefusedError, UserError
from flowctl.ids import check_id
from flowctl_cli import contexts
from flowctl_cli.contexts import LOCAL, Context
from flowctl_cli.session import JsonOption, Session, callback, command, new_app
from flowctl_cli.terminal import print_json, print_table, say

app = new_app()

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The context's name.")]


class ContextView(msgspec.Struct, frozen=True, kw_only=True):
    """One context; addresses are without their credentials."""

    name: str
    current: bool
    nats: str
    monitor: str


@callback(
    app,
    "flowctl context add prod --nats nats://10.0.0.1:4222,nats://10.0.0.2:4222,nats://10.0.0.3:4222",
    "flowctl context use prod",
    "flowctl context list",
    "flowctl status --context local",
)
def context(session: Session, ctx: typer.Context) -> None:
    """Give control planes names, and choose the one that commands mean.

    Without a choice they mean `local`, the control plane of the state directory. `--nats` and FLOWCTL_NATS_URL come before any
    context, `--context` before the chosen one. `server` and `agent` follow a context only if --context names it.
    """
    del session
    if ctx.invoked_subcommand is None:
        raise UserError("say what to do with contexts: add, use, list or remove", hint="flowctl context list")


@command(app, "flowctl context add prod --nats nats://10.0.0.1:4222 --monitor http://10.0.0.1:8222 --use", name="add")
def add(
    session: Session,
    *,
    name: NameArgument,
    monitor: Annotated[
        str, typer.Option("--monitor", metavar="URL", help="HTTP monitoring of the NATS servers, for `doctor`.")
    ] = "",
    use: Annotated[bool, typer.Option("--use", help="Choose it too.")] = False,
) -> None:
    """Name a control plane by its NATS servers (`--nats`); a name that is known means the new ones from now on."""
    check_id(name, "context")
    if name == LOCAL:
        raise RefusedError(f"the context {LOCAL} is always there: it is the control plane of the state directory")
    if not session.explicit_nats:
        raise UserError("which NATS servers?", hint=f"flowctl context add {name} --nats nats://HOST:4222")
    now = contexts.read()
    known = {**now.known, name: Context(session.explicit_nats, monitor)}
    contexts.write(msgspec.structs.replace(now, known=known, current=name if use else now.current))
    say(f"{name} is {shown(session.explicit_nats)}" + (", and chosen" if use else ""))


@command(app, "flowctl context use prod", "flowctl context use local", name="use")
def use(session: Session, *, name: NameArgument) -> None:
    """Choose the control plane that commands mean from now on."""
    del session
    now = contexts.read()
    now.named(name)
    contexts.write(msgspec.structs.replace(now, current=name))
    say(f"commands mean {name} now")


@command(app, "flowctl context list", "flowctl context list --json", name="list")
def list_(session: Session, *, json: JsonOption = False) -> None:
    """Show the contexts and which one is chosen."""
    now = contexts.read()
    views = [ContextView(name=LOCAL, current=now.current == LOCAL, nats=f"of {session.state_dir}", monitor="")]
    views += [
        ContextView(name=name, current=name == now.current, nats=shown(each.nats), monitor=shown(each.monitor))
        for name, each in sorted(now.known.items())
    ]
    if json:
        print_json(views)
    else:
        print_table(("", "CONTEXT", "NATS"), [("*" if each.current else "", each.name, each.nats) for each in views])


@command(app, "flowctl context remove prod", name="remove")
def remove(session: Session, *, name: NameArgument) -> None:
    """Forget a name; the control plane itself is not touched."""
    del session
    now = contexts.read()
    if now.named(name) is None:
        raise RefusedError(f"the context {LOCAL} is always there")
    known = {each: found for each, found in now.known.items() if each != name}
    contexts.write(msgspec.structs.replace(now, known=known, current=LOCAL if now.current == name else now.current))
    say(f"{name} is forgotten")


def shown(addresses: str) -> str:
    """Addresses without the credentials in them."""
    parts = [part.strip() for part in addresses.split(",") if part.strip()]
    return ",".join(
        f"{scheme}{colon}{rest.rpartition('@')[2]}" for scheme, colon, rest in (part.rpartition("://") for part in parts)
    )
