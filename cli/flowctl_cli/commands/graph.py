"""``flowctl graph``."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flowctl.spec.model import Pipeline
from flowctl_cli import plane, questions
from flowctl_cli.session import DEFAULT_TIMEOUT_S, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import is_file, pipeline_name
from flowctl_cli.terminal import write

app = new_app()


class Format(StrEnum):
    """How to draw."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"


@command(
    app,
    "flowctl graph pipeline.yaml",
    "flowctl graph orders --format mermaid",
    "flowctl graph pipeline.yaml --format dot | dot -Tsvg > pipeline.svg",
)
def graph(
    session: Session,
    *,
    pipeline: Annotated[str, typer.Argument(metavar="FILE|PIPELINE", help="A pipeline file, or a pipeline that was submitted.")],
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to draw it.")] = Format.TEXT,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Draw a pipeline: who feeds whom."""
    from flowctl.topology import Graph

    drawn = Graph.of(_load(pipeline) if is_file(pipeline) else run(_ask(session, pipeline_name(pipeline), timeout_s=timeout)))
    match format_:
        case Format.TEXT:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
            encodable = (sys.stdout.encoding or "ascii").lower().replace("-", "") in ("utf8", "utf16")
            text = drawn.to_text(ascii_only=not encodable, width=width)
        case Format.MERMAID:
            text = drawn.to_mermaid()
        case Format.DOT:
            text = drawn.to_dot()
    write(text if text.endswith("\n") else f"{text}\n")


def _load(file: str) -> Pipeline:
    from flowctl.spec.load import load

    return load(Path(file)).pipeline


async def _ask(session: Session, name: str, *, timeout_s: float) -> Pipeline:
    import msgspec

    async with plane.opened(session, timeout_s=timeout_s) as control:
        view = (await questions.status(control, name)).pipelines[0]
    return msgspec.convert(view.spec, Pipeline)
