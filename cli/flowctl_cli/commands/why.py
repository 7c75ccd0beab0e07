"""``flowctl why``."""

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowctl.ids import check_id
from flowctl.instants import Ago, Instant, parse_instant
from flowctl_cli import completion, plane
from flowctl_cli.session import DEFAULT_TIMEOUT_S, AtOption, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.targets import Target
from flowctl_cli.terminal import clock_time, coloured, paint, print_json, say

if TYPE_CHECKING:
    from flowctl_cli.explaining import Explained, Explanation

app = new_app()


@command(
    app,
    "flowctl why orders",
    "flowctl why orders.enrich.0",
    "flowctl why orders.enrich.0 --at '10 minutes ago'",
    "flowctl why host vm",
    "flowctl why orders --json | jq -r '.explanation.chain[].sentence'",
)
def why(
    session: Session,
    *,
    target: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE[.COMPONENT[.INDEX]]|host",
            help="Whom; or `host NAME`.",
            autocompletion=completion.targets,
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The host's name, after `host`.")] = None,
    at: AtOption = None,
    json: JsonOption = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_S,
) -> None:
    """Say why something is as it is: who asked for it, what was decided and by which rule, what started, and what ended how.

    Every line is an entry of the journal, CAUSE the entry that it came of. From the journal alone, and so also when nothing runs.
    """
    instant = parse_instant(at) if at is not None else Ago(0)
    if name is None:
        explained = run(_ask(session, instant, Target.parse(target), None, timeout_s=timeout))
    elif target == "host":
        explained = run(_ask(session, instant, None, check_id(name, "host"), timeout_s=timeout))
    else:
        raise typer.BadParameter(f"{name} is one word too many: write `flowctl why {target}` or `flowctl why host {name}`")
    if json:
        print_json(explained)
    else:
        for line in text(explained, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 0):
            say(line)


async def _ask(session: Session, instant: Instant, target: Target | None, host: str | None, *, timeout_s: float) -> "Explained":
    from flowctl_cli import explaining

    async with plane.opened(session, timeout_s=timeout_s, offline=True) as control:
        if target is not None:
            return await explaining.explain(control.store, instant, target)
        return await explaining.explain_host(control.store, instant, host or "")


def text(explained: "Explained", *, width: int = 0) -> list[str]:
    """The explanation as lines of at most ``width`` columns; 0 for any."""
    number = len(str(explained.seq))
    return _lines(explained.explanation, max(number, 5), width, set())


def _lines(found: "Explanation", number: int, width: int, told: set[int]) -> list[str]:
    """``told`` are the entries that stand above already."""
    lines = _wrapped(found.summary, "", "  ", width)
    lines[0] = _painted(lines[0], "strong")
    if found.waiting_for:
        lines += _wrapped(f"it waits for {found.waiting_for}", "  ", "  ", width)
    fresh = [step for step in found.chain if step.seq not in told]
    told |= {step.seq for step in fresh}
    if fresh:
        lines.append(_painted(f"  {'ENTRY':>{number}}  {'CAUSE':>{number}}  TIME", "faint"))
    for step in fresh:
        cause = str(step.causation) if step.causation else ""
        head = f"  {step.seq:>{number}}  {cause:>{number}}  {clock_time(step.time_ns)}  "
        wrapped = _wrapped(step.sentence, head, " " * len(head), width)
        lines.append(_painted(head, "faint") + wrapped[0][len(head) :])
        lines += wrapped[1:]
        if step.rule:
            lines += [
                _painted(line, "faint") for line in _wrapped(step.rule, f"{' ' * len(head)}└ ", " " * (len(head) + 2), width)
            ]
    if found.untold:
        lines.append(_painted(f"  and {found.untold} entries more: flowctl history {found.subject}", "faint"))
    for part in found.parts:
        if part.chain or part.waiting_for:
            lines.append("")
        lines += [f"  {line}" if line else "" for line in _lines(part, number, max(0, width - 2), told)]
    return lines


def _wrapped(line: str, first: str, then: str, width: int) -> list[str]:
    if not width:
        return [f"{first}{line}"]
    return textwrap.wrap(line, max(width, len(then) + 20), initial_indent=first, subsequent_indent=then) or [first]


def _painted(line: str, style: Literal["strong", "faint"]) -> str:
    return paint(line, style) if coloured(sys.stdout) else line
