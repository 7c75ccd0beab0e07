"""``flowctl-registry``: the registry alone in a process."""

import sys

from flowctl.errors import InvalidSettingError
from flowctl.serving import run_service
from flowctl.settings import RegistrySettings, argv, load_settings
from flowctl_registry.service import RegistryService


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        settings = load_settings(RegistrySettings, argv())
    except InvalidSettingError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before logging is set up
        return error.exit_code
    return run_service(settings, "registry", lambda context: RegistryService(context, settings))


if __name__ == "__main__":
    sys.exit(main())
