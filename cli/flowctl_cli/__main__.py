"""``flowctl``: runs the command that was typed, and turns whatever happens into an exit code and one clear sentence."""

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import typer

from flowctl.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, FlowctlError
from flowctl.paths import default_state_dir


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    from flowctl_cli.app import app
    from flowctl_cli.session import give_up_stdout
    from flowctl_cli.terminal import print_error

    try:
        code = _invoke(app, arguments)
        sys.stdout.flush()
    except FlowctlError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has had enough.
        give_up_stdout()
        return EXIT_DONE
    except Exception as error:  # noqa: BLE001 - the last line of defence: nobody shall see a traceback
        where = _keep(traceback.format_exc())
        sys.stderr.write(f"error: flowctl itself failed ({type(error).__name__}); the details are in {where}\n")
        return EXIT_FAILED
    return code


def _invoke(app: typer.Typer, arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="flowctl")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_DONE if end.code is None else EXIT_FAILED
    return EXIT_DONE


def _keep(details: str) -> Path:
    """Write the details of a failure where they can be found."""
    name = f"crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    for folder in (default_state_dir(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            path.write_text(f"flowctl {' '.join(sys.argv[1:2])}\n{details}")
        except OSError:
            continue
        return path
    return Path(os.devnull)


if __name__ == "__main__":
    main()
