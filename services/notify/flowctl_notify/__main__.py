"""``flowctl-notify``: the notifier alone in a process."""

import sys

from flowctl.errors import InvalidSettingError
from flowctl.serving import run_service
from flowctl.settings import NotifySettings, argv, load_settings
from flowctl_notify.service import NotifyService


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        settings = load_settings(NotifySettings, argv())
        NotifyService.check(settings)
    except InvalidSettingError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before logging is set up
        return error.exit_code
    return run_service(settings, "notify", lambda context: NotifyService(context, settings))


if __name__ == "__main__":
    sys.exit(main())
