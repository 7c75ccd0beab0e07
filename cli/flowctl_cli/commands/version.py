"""``flowctl version``."""

import sys

from flowctl import __version__
from flowctl_cli.session import JsonOption, Session, command, new_app
from flowctl_cli.terminal import print_json, say

app = new_app()


@command(app, "flowctl version", "flowctl version --json")
def version(_session: Session, *, json: JsonOption = False) -> None:
    """Show the version."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    if json:
        print_json({"version": __version__, "python": python})
    else:
        say(f"flowctl {__version__} (Python {python})")
