"""The removal of a container that is over. It runs in a thread."""

import logging

from flowctl.errors import DriverError
from flowctl_agent.drivers.docker.engine import Engine, EngineAwayError

log = logging.getLogger("flowctl.agent.docker")


def clear(engine: Engine, container: str) -> None:
    """Remove a container. One that cannot be removed is in nobody's way: that is said, and tried again at the next comparison.

    Raises:
        EngineAwayError: nobody was there to be asked.
    """
    try:
        engine.remove(container)
    except EngineAwayError:
        raise
    except DriverError as error:
        log.warning("the container %s could not be removed: %s", container[:12], error)
