"""docs/cli.md, written from the commands' own help: ``python -m flowctl_cli.reference > docs/cli.md``."""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from flowctl_cli.app import SUMMARIES, app

WIDTH = 100

_HEAD = """\
# The command line

Every command, as its `--help` says. This page is generated: `python -m flowctl_cli.reference > docs/cli.md`.

- The options `--nats`, `--state-dir` and `--log-level` may stand before or after the command.
- With `--json` a command prints one JSON value to stdout (`watch`, `logs` and `status --watch` one object a line). Messages about
  what happens meanwhile go to stderr.
- When the output is not a terminal there are no colours and nothing is redrawn; `NO_COLOR` is honoured on a terminal too.
- Every call to the control plane has a deadline.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the pipeline has failed, or the control plane refused |
| 2 | something is wrong with the file or the arguments |
| 3 | the control plane cannot be reached |
| 4 | it took longer than allowed |
| 130 | interrupted |

`--json` prints these structs, field by field: `status` is `StatusView` of `flowctl.api` with each instance's last heartbeat
(`LiveView`) under `live`; `hosts` a list of `HostView`; `restart` and `scale` are `Done`; `up --detach` is `Submitted`, and `up`
followed to its end is that with `exit_code`, `summary`, `status` and `instances`; `history` is a list of `EntryView`
(`flowctl_cli.entries`) and `watch` one a line; `logs` prints `LogView`, `validate` a list of `FileView`, `doctor` a list of
`Finding`, `server status` a `ServerView`.
"""


def reference() -> str:
    """The whole page as Markdown."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="flowctl", terminal_width=WIDTH, max_content_width=WIDTH)
    yield _section("flowctl", root, context)
    for name in SUMMARIES:
        command = root.get_command(context, name)
        inner = command.context_class(command, info_name=name, parent=context, terminal_width=WIDTH, max_content_width=WIDTH)
        yield _section(f"flowctl {name}", command, inner)
        for sub, each in getattr(command, "commands", {}).items():
            innermost = each.context_class(each, info_name=sub, parent=inner, terminal_width=WIDTH, max_content_width=WIDTH)
            yield _section(f"flowctl {name} {sub}", each, innermost)


def _section(title: str, command: Any, context: Any) -> str:  # noqa: ANN401 - Typer's own classes
    text = "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
