"""``flowctl graph``."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from flowctl import drawing
from flowctl.errors import UserError
from flowctl.instants import Instant, parse_instant
from flowctl.spec.model import Pipeline
from flowctl.topology import Edge, Graph, GraphNode
from flowctl_cli import plane, questions
from flowctl_cli.session import DEFAULT_TIMEOUT_S, AtOption, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import is_file, pipeline_name
from flowctl_cli.terminal import print_json, write

app = new_app()


class Format(StrEnum):
    """How to draw."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"


class GraphView(msgspec.Struct, frozen=True, kw_only=True):
    """The components in topological order, and every edge."""

    pipeline: str
    nodes: list[GraphNode]
    edges: list[Edge]


@command(
    app,
    "flowctl graph pipeline.yaml",
    "flowctl graph orders --format mermaid",
    "flowctl graph orders --at '2 days ago'",
    "flowctl graph pipeline.yaml --format dot | dot -Tsvg > pipeline.svg",
    "flowctl graph orders --json | jq '.edges[] | .upstream + \" -> \" + .downstream'",
)
def graph(
    session: Session,
    *,
    pipeline: Annotated[str, typer.Argument(metavar="FILE|PIPELINE", help="A pipeline file, or a pipeline that was submitted.")],
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to draw it.")] = Format.TEXT,
    at: AtOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Draw a pipeline: who feeds whom.

    With --at as it was then, from the journal alone and so also when nothing runs.
    """
    if is_file(pipeline):
        if at is not None:
            raise UserError(f"--at is for a pipeline that was submitted, and {pipeline} is a file")
        spec = _load(pipeline)
    else:
        instant = parse_instant(at) if at is not None else None
        spec = run(_ask(session, pipeline_name(pipeline), instant, timeout_s=timeout))
    drawn = Graph.of(spec)
    if json:
        print_json(GraphView(pipeline=spec.name, nodes=list(drawn.nodes.values()), edges=drawn.edges))
        return
    match format_:
        case Format.TEXT:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
            encodable = (sys.stdout.encoding or "ascii").lower().replace("-", "") in ("utf8", "utf16")
            text = drawing.to_text(drawn, ascii_only=not encodable, width=width)
        case Format.MERMAID:
            text = drawing.to_mermaid(drawn)
        case Format.DOT:
            text = drawing.to_dot(drawn)
    write(text if text.endswith("\n") else f"{text}\n")


def _load(file: str) -> Pipeline:
    from flowctl.spec.load import load

    return load(Path(file)).pipeline


async def _ask(session: Session, name: str, instant: Instant | None, *, timeout_s: float) -> Pipeline:
    async with plane.opened(session, timeout_s=timeout_s, offline=instant is not None) as control:
        view = await (questions.status(control, name) if instant is None else questions.status_at(control, instant, name))
    return msgspec.convert(view.pipelines[0].spec, Pipeline)
