"""What the environment tells a component: who it is, whom to ask, where to listen."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flowctl.errors import InvalidSettingError
from flowctl.ids import InstanceId
from flowctl.spec.model import OnError
from flowctl_sdk.author import Kind

STANDALONE_DATA = "127.0.0.1:50051"
STANDALONE_HEALTH = "127.0.0.1:8088"
LEVELS = ("debug", "info", "warning", "error")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one instance. Without ``endpoints`` it runs standalone."""

    endpoints: tuple[str, ...]
    instance: InstanceId
    incarnation: int
    listen: str
    advertise_host: str
    health_listen: str
    inputs: tuple[str, ...]
    config: dict[str, Any]
    on_error: OnError
    state_dir: Path
    log_level: str
    log_format: str
    stop_timeout_s: float


def read_settings(kind: Kind, name: str, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a component of this kind; ``name`` is its id if the environment gives none.

    Raises:
        InvalidSettingError: naming the variable, what was found and what was expected.
        InvalidIdError: if a name in them is not an id.
    """
    endpoints = _addresses(environ, "FLOWCTL_ENDPOINT")
    standalone = not endpoints
    declared = environ.get("FLOWCTL_COMPONENT_KIND", kind)
    if declared != kind:
        raise InvalidSettingError(f"FLOWCTL_COMPONENT_KIND is {declared!r}, but this program is a {kind}")
    if not standalone:
        for needed in ("FLOWCTL_PIPELINE", "FLOWCTL_COMPONENT_ID"):
            if not environ.get(needed):
                raise InvalidSettingError(f"{needed} is not set, but FLOWCTL_ENDPOINT is: both come from the agent")
    instance = InstanceId.checked(
        environ.get("FLOWCTL_PIPELINE", "standalone"),
        environ.get("FLOWCTL_COMPONENT_ID") or component_id(name),
        environ.get("FLOWCTL_INSTANCE_INDEX", "0"),
    )
    listen = environ.get("FLOWCTL_LISTEN") or (STANDALONE_DATA if standalone else "127.0.0.1:0")
    health_listen = environ.get("FLOWCTL_HEALTH_LISTEN") or (STANDALONE_HEALTH if standalone else "127.0.0.1:0")
    host, _ = split_address(listen, "FLOWCTL_LISTEN")
    split_address(health_listen, "FLOWCTL_HEALTH_LISTEN")
    return Settings(
        endpoints=endpoints,
        instance=instance,
        incarnation=_number(environ, "FLOWCTL_INCARNATION", 1),
        listen=listen,
        advertise_host=environ.get("FLOWCTL_ADVERTISE_HOST") or ("127.0.0.1" if host in {"0.0.0.0", "[::]", "::"} else host),  # noqa: S104
        health_listen=health_listen,
        inputs=_addresses(environ, "FLOWCTL_INPUTS"),
        config=_config(environ),
        on_error=_on_error(environ),
        state_dir=Path(environ.get("FLOWCTL_STATE_DIR") or f".flowctl-{instance}"),
        log_level=_one_of(environ, "FLOWCTL_LOG_LEVEL", "info", LEVELS),
        log_format=_one_of(environ, "FLOWCTL_LOG_FORMAT", "console" if standalone else "json", ("json", "console")),
        stop_timeout_s=_seconds(environ, "FLOWCTL_STOP_TIMEOUT_S", 30.0),
    )


def split_address(address: str, what: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 host stands in brackets.

    Raises:
        InvalidSettingError: if it has another shape or the port is not one.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidSettingError(f"{what}: expected host:port, found {address[:200]!r}")
    return host, int(port)


def _addresses(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    addresses = tuple(part.strip() for part in environ.get(name, "").split(",") if part.strip())
    for address in addresses:
        split_address(address, name)
    return addresses


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise InvalidSettingError(f"{name}: expected a whole number, found {text[:40]!r}")
    return int(text)


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise InvalidSettingError(f"{name}: expected seconds from 0 to 86400, found {text[:40]!r}")
    return seconds


def _one_of(environ: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    value = (environ.get(name) or default).lower()
    if value not in choices:
        raise InvalidSettingError(f"{name}: expected one of {', '.join(choices)}, found {value[:40]!r}")
    return value


def _config(environ: Mapping[str, str]) -> dict[str, Any]:
    path = environ.get("FLOWCTL_CONFIG_FILE")
    try:
        text = Path(path).read_bytes() if path else environ.get("FLOWCTL_CONFIG", "{}").encode()
    except OSError as error:
        raise InvalidSettingError(f"FLOWCTL_CONFIG_FILE: cannot read {path}: {error.strerror}") from error
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        name = f"FLOWCTL_CONFIG_FILE: {path}" if path else "FLOWCTL_CONFIG"
        raise InvalidSettingError(f"{name}: expected a JSON object: {error}") from error


def _on_error(environ: Mapping[str, str]) -> OnError:
    try:
        on_error = msgspec.json.decode(environ.get("FLOWCTL_ON_ERROR") or "{}", type=OnError)
    except msgspec.MsgspecError as error:
        raise InvalidSettingError(f"FLOWCTL_ON_ERROR: {error}") from error
    if on_error.action == "dead_letter" and not environ.get("FLOWCTL_ENDPOINT"):
        raise InvalidSettingError("FLOWCTL_ON_ERROR: dead_letter needs a registry that keeps the events: set FLOWCTL_ENDPOINT")
    return on_error


def component_id(name: str) -> str:
    """An id for a component that has only the name of its function or class."""
    lowered = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "-" for letter in name.lower())
    return lowered.strip("-_")[:63] or "component"
