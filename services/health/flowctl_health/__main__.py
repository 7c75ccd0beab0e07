"""``flowctl-health``: the health monitor alone in a process."""

import sys

from flowctl.errors import InvalidSettingError
from flowctl.serving import run_service
from flowctl.settings import HealthSettings, argv, load_settings
from flowctl_health.service import HealthService


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        settings = load_settings(HealthSettings, argv())
    except InvalidSettingError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before logging is set up
        return error.exit_code
    return run_service(settings, "health", lambda context: HealthService(context, settings))


if __name__ == "__main__":
    sys.exit(main())
