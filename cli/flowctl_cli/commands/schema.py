"""``flowctl schema``."""

from enum import StrEnum
from typing import Annotated

import typer

from flowctl_cli.session import Session, command, new_app
from flowctl_cli.terminal import write

app = new_app()


class What(StrEnum):
    """What there is a schema of."""

    PIPELINE = "pipeline"


@command(app, "flowctl schema > flowctl.schema.json")
def schema(
    _session: Session,
    *,
    what: Annotated[What, typer.Argument(help="What to describe.")] = What.PIPELINE,
) -> None:
    """Print the JSON Schema of the pipeline file, for editors and other tools."""
    from flowctl.spec.schema import json_schema_text

    match what:
        case What.PIPELINE:
            write(json_schema_text())
