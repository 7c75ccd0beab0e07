"""The shim's program: next to nothing, because a script is compiled at every start and a module only once."""

import sys


def start() -> None:
    """Find the package without the site's help, and run it."""
    sys.path.append(__file__[: __file__.rindex("/flowctl_agent/")])
    from flowctl_agent.shim.supervisor import main

    main()


if __name__ == "__main__":
    start()
