"""``flowctl-agent``: the agent alone. With an external NATS server it needs nothing else on its host."""

import sys

from flowctl.errors import FlowctlError
from flowctl.serving import run_service
from flowctl.settings import AgentSettings, argv, load_settings
from flowctl_agent.service import AgentService


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        settings = load_settings(AgentSettings, argv())
    except FlowctlError as error:
        print(f"flowctl-agent: {error}", file=sys.stderr)  # noqa: T201  # before there is a log
        return error.exit_code
    return run_service(settings, "agent", lambda context: AgentService(context, settings))


if __name__ == "__main__":
    sys.exit(main())
