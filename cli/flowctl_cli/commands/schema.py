"""``flowctl schema``."""

from enum import StrEnum
from typing import Annotated

import typer

from flowctl.errors import UserError
from flowctl_cli.session import Session, command, new_app
from flowctl_cli.terminal import write

app = new_app()


class What(StrEnum):
    """What there is a schema of."""

    PIPELINE = "pipeline"
    EVENTS = "events"
    ASYNCAPI = "asyncapi"


@command(
    app,
    "flowctl schema > flowctl.schema.json",
    "flowctl schema events > events.schema.json",
    "flowctl schema events --type ComponentExited",
    "flowctl schema events --type flowctl.component.exited --version 1",
    "flowctl schema events --type heartbeat",
    "flowctl schema asyncapi > asyncapi.json",
)
def schema(
    _session: Session,
    *,
    what: Annotated[What, typer.Argument(help="What to describe.")] = What.PIPELINE,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="NAME", help="Of events: only this type (ComponentExited, a ce-type, log …).")
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", metavar="N", min=1, help="Of events: this version of the type; the newest if left out."),
    ] = None,
) -> None:
    """Print the JSON Schema of the pipeline file or of the journal's events, or the AsyncAPI document of all that is published.

    `events` describes the data of every type and version of journal entries, heartbeats, log lines and dead letters.
    """
    if what is not What.EVENTS and (type_ is not None or version is not None):
        raise UserError("--type and --version belong to events", hint="flowctl schema events --type ComponentExited")
    if type_ is None and version is not None:
        raise UserError("--version needs the type", hint="flowctl schema events --type ComponentExited --version 1")
    write(_text(what, type_, version))


def _text(what: What, type_: str | None, version: int | None) -> str:
    match what:
        case What.PIPELINE:
            from flowctl.spec.schema import json_schema_text

            return json_schema_text()
        case What.EVENTS:
            from flowctl.journal import schemas

            return schemas.text(schemas.document() if type_ is None else schemas.single(chosen(type_, version)))
        case What.ASYNCAPI:
            from flowctl.journal import asyncapi, schemas

            return schemas.text(asyncapi.document())


def chosen(type_: str, version: int | None) -> str:
    """The name of the schema that the words mean; of several versions the newest.

    Raises:
        UserError: there is no such type, or not in that version.
    """
    from flowctl.journal import schemas

    found = schemas.meant(type_)
    if not found:
        titles = sorted({struct.__name__ for struct in schemas.all_structs().values()})
        raise UserError(f"there is no event type {type_[:60]!r}", hint=f"the types are {', '.join(titles)}")
    if len(bases := dict.fromkeys(map(schemas.base_of, found))) > 1:
        raise UserError(f"{type_[:60]!r} may mean several types", hint=f"name one of {', '.join(bases)}")
    if version is None:
        return found[-1]
    for name in found:
        if name.endswith(f".v{version}"):
            return name
    versions = ", ".join(name.rpartition(".v")[2] for name in found if name not in schemas.SIGNALS)
    raise UserError(f"{found[-1]} has no version {version}", hint=f"there is {versions}" if versions else "it has no versions")
