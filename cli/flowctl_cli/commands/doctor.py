"""``flowctl doctor``."""

import sys
from typing import Final

import typer

from flowctl.errors import EXIT_FAILED
from flowctl_cli.checks import Finding, findings
from flowctl_cli.session import DEFAULT_TIMEOUT_S, JsonOption, Session, TimeoutOption, command, new_app, run
from flowctl_cli.terminal import Style, coloured, paint, print_json, say

app = new_app()

_MARKS: Final[dict[str, tuple[str, Style]]] = {"ok": ("ok", "good"), "note": ("note", "busy"), "wrong": ("WRONG", "bad")}


@command(app, "flowctl doctor", "flowctl doctor --json | jq '.[] | select(.level == \"wrong\")'")
def doctor(session: Session, *, json: JsonOption = False, timeout: TimeoutOption = DEFAULT_TIMEOUT_S) -> None:
    """Find out what is wrong, and how to put it right. Exits with 1 if anything is."""
    found = run(_examine(session, quiet=json, timeout_s=timeout))
    if json:
        print_json(found)
    if any(finding.level == "wrong" for finding in found):
        raise typer.Exit(EXIT_FAILED)


async def _examine(session: Session, *, quiet: bool, timeout_s: float) -> list[Finding]:
    found: list[Finding] = []
    async for finding in findings(session, timeout_s=timeout_s):
        found.append(finding)
        if not quiet:
            _show(finding)
    return found


def _show(finding: Finding) -> None:
    mark, style = _MARKS[finding.level]
    padded = mark.ljust(5)
    say(f"{paint(padded, style) if coloured(sys.stdout) else padded}  {finding.check:<12}  {finding.detail}")
    if finding.hint and finding.level != "ok":
        say(f"{'':<21}{finding.hint}")
