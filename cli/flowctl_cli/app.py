"""The root command: global options, and commands that are imported only when they are typed."""

import importlib
from typing import Any, Final

import typer
from typer.core import TyperGroup

from flowctl_cli.session import ContextOption, LogLevelOption, NatsOption, StateDirOption, merge

SUMMARIES: Final[dict[str, str]] = {
    "up": "Run a pipeline and follow it until it ends.",
    "run": "The same as up, always in the foreground.",
    "down": "Stop pipelines: sources first, what is under way is drained.",
    "validate": "Check pipeline files and show every problem in them.",
    "init": "Write a new pipeline file from a template.",
    "schema": "Print the JSON Schema of the pipeline file or of all events, or AsyncAPI.",
    "export": "Write a Compose file or a systemd unit that runs a pipeline.",
    "graph": "Draw a pipeline.",
    "status": "Show pipelines and their instances, and what waits for what.",
    "logs": "Show what instances print.",
    "tap": "Show live events that leave a component, or enter a sink.",
    "watch": "Follow the journal: every event as it happens.",
    "notify": "Show who is told of what over HTTP; try it; send again what nobody took.",
    "history": "Show past events of the journal.",
    "why": "Say why a pipeline, an instance or a host is as it is.",
    "diff": "Show what changed between two instants, and which entries did it.",
    "report": "Show figures over a period: availability, failures, times to detect and to repair.",
    "replay": "Make recorded decisions once more: the same, or what differs; what if.",
    "journal": "Take the journal out into a file, or in from one.",
    "verify": "Prove that everything is as the journal says, and the journal what was written.",
    "dead-letters": "Show the events that components gave up on, and send them again.",
    "restart": "Start instances anew.",
    "scale": "Change how many instances a component has.",
    "rollback": "Let a pipeline be again what an earlier revision of its file said.",
    "hosts": "Show the hosts and what they offer; empty one; use it again.",
    "context": "Give control planes names, and choose the one that commands mean.",
    "agent": "Join this machine to a control plane as a host.",
    "doctor": "Find out what is wrong, and how to put it right.",
    "server": "Run the control plane; stop it; show how it is.",
    "version": "Show the version.",
}
"""Every command with its one-line help, in the order of ``flowctl --help``."""

EPILOG: Final = """\b
Exit codes:
  0    done
  1    failed
  2    something is wrong with the file or the arguments
  3    the control plane cannot be reached
  4    it took longer than allowed
  130  interrupted

\b
Examples:
  flowctl init --output pipeline.yaml
  flowctl up pipeline.yaml
  flowctl status --watch"""


class LazyGroup(TyperGroup):
    """A group whose commands' modules are imported when they are used, not when they are listed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - the context's type is typer's own
        """The commands' names."""
        return list(SUMMARIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - as above
        """The command of that name, or None."""
        if cmd_name not in SUMMARIES:
            return None
        if cmd_name not in self.commands:
            module = importlib.import_module(f"flowctl_cli.commands.{cmd_name.replace('-', '_')}")
            command = typer.main.get_command(module.app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - as above
        """The list of commands in the help, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


app = typer.Typer(
    name="flowctl",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(epilog=EPILOG)
def flowctl(
    ctx: typer.Context,
    nats: NatsOption = None,
    context: ContextOption = None,
    state_dir: StateDirOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run streaming data pipelines as separate programs, with every fact about them in a journal.

    The options below may also be given after the command.
    """
    merge(ctx, nats=nats, context=context, state_dir=state_dir, log_level=log_level)
