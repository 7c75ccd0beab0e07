"""Which drivers a host offers: what the settings ask for, or what is there."""

import os
from pathlib import Path
from typing import Final

from flowctl.settings import AgentSettings
from flowctl_agent.drivers import Driver
from flowctl_agent.drivers.docker import DockerDriver
from flowctl_agent.drivers.process import ProcessDriver

USUAL_SOCKET: Final = Path("/var/run/docker.sock")


def offered(settings: AgentSettings) -> list[Driver]:
    """The drivers of this host, none of them open."""
    process, docker = (
        ProcessDriver(
            settings.state_dir,
            log_file_bytes=settings.log_file_bytes,
            log_files=settings.log_files,
            kept_runs=settings.kept_runs,
        ),
        DockerDriver(
            settings.state_dir,
            url=settings.docker_host,
            registry=settings.registry,
            advertise_host=settings.advertise_host,
            log_file_bytes=settings.log_file_bytes,
            log_files=settings.log_files,
            kept_runs=settings.kept_runs,
        ),
    )
    if settings.drivers == "auto":
        return [process, docker] if engine_is_likely(settings.docker_host) else [process]
    return [driver for driver in (process, docker) if driver.name in settings.drivers.split(",")]


def engine_is_likely(docker_host: str) -> bool:
    """Whether there is an engine to ask, without asking it: its library takes a while to load, and few pipelines need it."""
    url = docker_host or os.environ.get("DOCKER_HOST", "")
    if url and not url.startswith("unix://"):
        return True
    socket = Path(url.removeprefix("unix://")) if url else USUAL_SOCKET
    return socket.is_socket() and os.access(socket, os.R_OK | os.W_OK)
