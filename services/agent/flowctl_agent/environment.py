"""What a component is started with: its command, its environment and its configuration. Pure.

The environment of the agent is passed on without what is flowctl's, NATS' or the dynamic linker's; over it comes the component's
own ``env``; over that what says who the component is, which nothing overrides. Secrets are in ``env`` and ``config`` only,
resolved here, and named in ``secrets``: what a program writes of them is not stored.

A container inherits nothing of the agent's environment, and its ``env`` values with references are kept apart as secrets.

A component runs in the directory of the pipeline file, so that relative paths in a command, a configuration and ``${file:…}``
mean what they mean to the author; where that directory does not exist (another host), in its state directory.
"""

import ipaddress
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePath
from typing import Any, Final

import msgspec

from flowctl.errors import UserError
from flowctl.fleet import Assignment
from flowctl.spec import references
from flowctl.spec.catalog import CATALOG
from flowctl.spec.model import Container, OnError
from flowctl_agent.drivers import Launch, RunKey

MIN_SECRET: Final = 6
"""Shorter texts (``true``, ``8080``) are in too many lines to be told from what is no secret."""
MAX_SECRETS: Final = 256

_UNBUFFERED: Final = {"PYTHONUNBUFFERED": "1"}
_DROPPED_PREFIXES: Final = ("FLOWCTL_", "NATS_", "LD_", "DYLD_")


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a host gives to a component. ``registry`` and hosts as components reach them; port 0 is any free one."""

    registry: str
    advertise_host: str
    python: str
    log_level: str
    log_format: str
    env: Mapping[str, str]
    image: str = ""
    data_port: int = 0
    health_port: int = 0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a host, as far as a launch needs them. ``cwd`` None: the instance's state directory."""

    cwd: Path | None
    read_file: Callable[[Path], str]


def working_directory(source: str, is_directory: Callable[[Path], bool]) -> Path | None:
    """The directory of the pipeline file ``source`` (an absolute path, or something else), if this host has it."""
    path = Path(source)
    return path.parent if path.is_absolute() and is_directory(path.parent) else None


def prepare(key: RunKey, assignment: Assignment, surroundings: Surroundings, place: Place) -> Launch:
    """Everything that the driver needs.

    Raises:
        UserError: a reference cannot be resolved on this host, or the component is something that processes cannot be.
    """
    component = assignment.component

    def read(name: str) -> str:
        if not PurePath(name).is_absolute() and place.cwd is None:
            raise UserError("the path is relative, and the pipeline file's directory is not on this host")
        return place.read_file((place.cwd or Path("/")) / name)

    in_container = assignment.driver == "docker"
    filled: set[str] = set()
    config: dict[str, Any] = references.resolve(component.config, surroundings.env, read, ("config",), filled=filled)
    own_env: dict[str, str] = references.resolve(component.env, surroundings.env, read, ("env",), filled=filled)
    secret = {name for name, value in component.env.items() if references.has_reference(value)} if in_container else set[str]()
    base = dict(_UNBUFFERED) if in_container else base_environment(surroundings.env, surroundings.python)
    env = base | own_env | identity(key, assignment, surroundings)
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise UserError(f"{name!r} cannot be an environment variable")
    return Launch(
        key=key,
        assignment=assignment.seq,
        argv=command(assignment, "python" if in_container else surroundings.python),
        env={name: value for name, value in env.items() if name not in secret},
        config=msgspec.json.encode(config),
        secrets=secrets(filled),
        cwd=place.cwd,
        stop_timeout_s=component.stop_timeout_s,
        driver=assignment.driver,
        image=component.image or surroundings.image,
        has_program=component.type is not None or component.command is not None,
        secret_env={name: own_env[name] for name in secret},
        container=component.container or Container(),
        resources=component.resources,
    )


def secrets(filled: Collection[str]) -> tuple[str, ...]:
    """What a program must not be seen to write: each line of each text, as it is and as JSON writes it; the longest first."""
    lines = {line.strip() for text in filled for line in text.splitlines()}
    forms = {form for text in filled for form in _json_forms(text)} | {form for line in lines for form in _json_forms(line)}
    found = (form for form in lines | forms if len(form) >= MIN_SECRET)
    return tuple(sorted(found, key=lambda form: (-len(form), form))[:MAX_SECRETS])


def _json_forms(text: str) -> tuple[str, str]:
    return json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]


def command(assignment: Assignment, python: str) -> list[str]:
    """The program and its arguments.

    Raises:
        UserError: it is not a program of this host.
    """
    component = assignment.component
    if component.type is not None:
        ready_made = CATALOG.get(component.type)
        if ready_made is None:
            raise UserError(f"there is no ready-made component {component.type!r} in this version of flowctl")
        # -P: a file of the pipeline's directory must not replace a module of the component
        return [python, "-P", "-m", ready_made.module_of(assignment.kind), *component.args]
    if component.command:
        return [*component.command, *component.args]
    if assignment.driver == "docker":
        return [*component.args]  # the image's own program takes them
    raise UserError("the process driver needs a type or a command")


def base_environment(env: Mapping[str, str], python: str) -> dict[str, str]:
    """What a component inherits. Output of Python programs comes line by line, unless somebody wants it otherwise.

    ``python`` in a command finds the agent's own interpreter, which has the SDK, unless the agent's PATH has its directory
    already, in whatever place.
    """
    kept = {name: value for name, value in env.items() if not name.startswith(_DROPPED_PREFIXES)}
    path = kept.get("PATH", "")
    beside = str(PurePath(python).parent)
    if beside not in path.split(":"):
        kept["PATH"] = f"{beside}:{path}" if path else beside
    return {**_UNBUFFERED, **kept}


def identity(key: RunKey, assignment: Assignment, surroundings: Surroundings) -> dict[str, str]:
    """The variables that tell a component who it is. The driver adds where its files are."""
    component = assignment.component
    ports = component.ports
    host = bind_host(surroundings.advertise_host)
    data = ports.data if ports is not None and ports.data else surroundings.data_port
    health = ports.health if ports is not None and ports.health else surroundings.health_port
    return {
        "FLOWCTL_ENDPOINT": surroundings.registry,
        "FLOWCTL_PIPELINE": key.instance.pipeline,
        "FLOWCTL_COMPONENT_ID": key.instance.component,
        "FLOWCTL_INSTANCE_INDEX": str(key.instance.index),
        "FLOWCTL_INCARNATION": str(key.incarnation),
        "FLOWCTL_COMPONENT_KIND": assignment.kind,
        "FLOWCTL_LISTEN": f"{host}:{data}",
        "FLOWCTL_ADVERTISE_HOST": surroundings.advertise_host,
        "FLOWCTL_HEALTH_LISTEN": f"{host}:{health}",
        "FLOWCTL_ON_ERROR": _on_error(component.on_error),
        "FLOWCTL_LOG_LEVEL": surroundings.log_level,
        "FLOWCTL_LOG_FORMAT": surroundings.log_format,
        "FLOWCTL_STOP_TIMEOUT_S": f"{component.stop_timeout_s:g}",
    }


def bind_host(advertised: str) -> str:
    """Where to listen so that peers reach the advertised host, and nobody else where that can be said."""
    if advertised == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(advertised.strip("[]"))
    except ValueError:
        return "0.0.0.0"  # noqa: S104  # a name says nothing about the interface
    return f"[{address}]" if address.version == 6 else str(address)


def _on_error(on_error: OnError) -> str:
    """JSON with every field, defaults too: other languages do not know them."""
    backoff = msgspec.structs.asdict(on_error.backoff)
    return msgspec.json.encode({**msgspec.structs.asdict(on_error), "backoff": backoff}).decode()
