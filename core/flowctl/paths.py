"""Where flowctl keeps things on this host."""

import os
from pathlib import Path


def default_state_dir() -> Path:
    """``$FLOWCTL_STATE_DIR``, else ``$XDG_STATE_HOME/flowctl``, else ``~/.local/state/flowctl``."""
    explicit = os.environ.get("FLOWCTL_STATE_DIR")
    if explicit:
        return Path(explicit).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "flowctl"


def nats_dir(state_dir: Path) -> Path:
    """Where the embedded NATS server keeps its store, configuration and logs."""
    return state_dir / "nats"


def instances_dir(state_dir: Path) -> Path:
    """Where the agent keeps what it knows of each instance that it started: logs, configuration, exit codes."""
    return state_dir / "instances"


def server_file(state_dir: Path) -> Path:
    """Where a running server says how it is reached."""
    return state_dir / "server.json"


def registry_port_file(state_dir: Path) -> Path:
    """Where a server that was given no port for its registry remembers the one that it took."""
    return state_dir / "registry.port"
