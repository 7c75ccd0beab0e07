"""The services' settings: defaults, then a TOML file, then the environment (``FLOWCTL_…``), then flags.

The file is named by ``FLOWCTL_SETTINGS_FILE``. Every setting stands in docs/settings.md, which a test compares with this module.
"""

import ipaddress
import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliApp,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from flowctl import __version__
from flowctl.errors import InvalidSettingError
from flowctl.ids import ID_PATTERN, is_id
from flowctl.paths import default_state_dir

SETTINGS_FILE = "FLOWCTL_SETTINGS_FILE"

IdStr = Annotated[str, StringConstraints(pattern=f"^{ID_PATTERN}$")]
Listen = Annotated[str, StringConstraints(pattern=r"^[^\s:]+:[0-9]{1,5}$|^\[[0-9a-fA-F:]+\]:[0-9]{1,5}$")]


def default_host_name() -> str:
    """This machine's name as an id."""
    name = socket.gethostname().split(".")[0].lower()
    cleaned = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-" for letter in name)
    cleaned = cleaned.strip("-_")[:63]
    return cleaned if is_id(cleaned) else "localhost"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address or name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """What every service has."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWCTL_", extra="ignore", cli_kebab_case=True, cli_hide_none_type=True, cli_avoid_json=True
    )

    nats_url: str = Field("", description="NATS server(s), comma-separated; empty: the embedded one of the state directory")
    nats_monitor_url: str = Field("", description="HTTP monitoring address of an external NATS server, to verify that it fsyncs")
    nats_assume_synced: bool = Field(
        default=False, description="trust that an external NATS server has sync_interval: always when it cannot be verified"
    )
    state_dir: Path = Field(default_factory=default_state_dir, description="where this host keeps its state")
    name: IdStr = Field(default_factory=default_host_name, description="the name of this host or service replica")
    allow_insecure_remote: bool = Field(
        default=False, description="allow addresses beyond loopback although nothing is encrypted or asks who calls"
    )
    http_listen: Listen | Literal[""] = Field("", description="host:port of /health, /ready and /metrics; empty: off")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least severe message that is logged")
    log_format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, json otherwise")

    @field_validator("http_listen", "registry_listen", "advertise_host", check_fields=False)
    @classmethod
    def _loopback_only(cls, value: str, info: ValidationInfo) -> str:
        """Whoever reaches these addresses can register components and read and send events."""
        host = value if info.field_name == "advertise_host" else value.rpartition(":")[0]
        if value and not info.data.get("allow_insecure_remote") and not is_loopback(host):
            raise ValueError(
                "expected a loopback address, because nothing is encrypted or asks who calls"
                " (on a network that you trust set allow_insecure_remote)"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and code first, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        path = os.environ.get(SETTINGS_FILE)
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(path))) if path else sources


class RegistrySettings(Settings):
    """The registry's."""

    registry_listen: Listen = Field("127.0.0.1:8080", description="host:port of the gRPC ComponentRegistry")
    heartbeat_interval_s: float = Field(10.0, gt=0, le=3600, description="how often components are told to send heartbeats")


class HealthSettings(Settings):
    """The health monitor's."""

    silence_s: float = Field(30.0, gt=0, description="an instance is unhealthy after more than this many seconds of silence")
    host_silence_s: float | None = Field(
        None, gt=0, description="a host is lost after more than this many seconds of silence; unset: silence_s"
    )
    check_interval_s: float = Field(0.5, gt=0, le=5, description="how often silence is looked for")


class OrchestratorSettings(Settings):
    """The orchestrator's."""


class AgentSettings(Settings):
    """The agent's."""

    registry: str = Field("127.0.0.1:8080", description="host:port of the registry, as components on this host reach it")
    advertise_host: str = Field("127.0.0.1", description="the address at which other hosts reach components on this one")
    port_range: Annotated[str, StringConstraints(pattern=r"^([0-9]{1,5}-[0-9]{1,5})?$")] = Field(
        "", description="first-last: the ports that components on this host listen on, two each, for firewalls; empty: any free"
    )
    drivers: Annotated[str, StringConstraints(pattern=r"^(auto|(process|docker)(,(process|docker))?)$")] = Field(
        "auto", description="what this host starts components with; auto: process, and docker if an engine is there"
    )
    docker_host: str = Field("", description="the Docker engine's address; empty: DOCKER_HOST, or the usual socket")
    docker_image: str = Field(
        f"flowctl:{__version__}", description="the image of components that name none: ready-made ones, and commands"
    )
    labels: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="labels of this host for placement, for example gpu=true,zone=a"
    )
    host_heartbeat_s: float = Field(5.0, gt=0, le=3600, description="how often the agent says that its host is alive")
    log_file_bytes: int = Field(10_000_000, ge=4096, description="a component's log file is rotated at this size")
    log_files: int = Field(5, ge=1, le=100, description="how many rotated log files of an instance are kept")
    kept_runs: int = Field(5, ge=1, le=1000, description="of how many exited runs of an instance the log files are kept")

    @field_validator("port_range")
    @classmethod
    def _ports(cls, value: str) -> str:
        if value:
            first, last = (int(number) for number in value.split("-"))
            if not 1 <= first <= last <= 65_535:
                raise ValueError("expected two ports from 1 to 65535, the smaller one first")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _labels(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair for pair in value.split(",") if pair]
        if any("=" not in pair for pair in pairs):
            raise ValueError("expected key=value pairs, separated by commas")
        return {key.strip(): rest.strip() for key, rest in (pair.split("=", 1) for pair in pairs)}


class NotifySettings(Settings):
    """The notifier's."""

    notify: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="who is told of what: routes `[NAME:] SUBJECT [FIELD=VALUE …] -> URL [structured]`, a list in the file, else"
        " separated by `;` or line breaks; see docs/notify.md",
    )
    notify_secret: str = Field(
        "", repr=False, description="the key that signs notices (HMAC-SHA256), best as `${file:…}` or `${env:…}`; empty: unsigned"
    )
    notify_timeout_s: float = Field(10.0, gt=0, le=300, description="how long one attempt to deliver a notice may take")
    notify_attempts: int = Field(10, ge=1, le=1000, description="after so many attempts a notice is kept as undelivered")
    notify_backoff_s: float = Field(1.0, gt=0, le=3600, description="the wait after the first failed attempt; then it doubles")
    notify_backoff_max_s: float = Field(60.0, gt=0, le=3600, description="the longest wait between two attempts")

    @field_validator("notify", mode="before")
    @classmethod
    def _routes(cls, value: object) -> object:
        if isinstance(value, str):
            return split_routes([value])
        parts = cast("list[object]", value) if isinstance(value, list) else []
        return split_routes([str(part) for part in parts]) if parts else cast("object", value)


def split_routes(texts: list[str]) -> list[str]:
    """The notifier's routes, one a text: they may come separated by ``;`` or line breaks."""
    return [line.strip() for text in texts for line in re.split(r"[;\n]", text) if line.strip()]


class ServerSettings(RegistrySettings, HealthSettings, OrchestratorSettings, AgentSettings, NotifySettings):
    """Everything in one process."""

    registry: str = Field("", description="as components reach the registry; empty: where it listens")

    @model_validator(mode="after")
    def _beat_often_enough(self) -> Self:
        """A shorter patience for silence needs heartbeats that are more frequent; those that were set stay as they are."""
        for name, patience_s in (
            ("heartbeat_interval_s", self.silence_s),
            ("host_heartbeat_s", self.silence_s if self.host_silence_s is None else self.host_silence_s),
        ):
            if name not in self.model_fields_set:
                setattr(self, name, min(getattr(self, name), patience_s / 3))
        return self


S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], flags: list[str] | None = None, **values: Any) -> S:  # noqa: ANN401 - values of any field
    """The settings of a service: from ``flags`` (argv without the program) if given, ``values``, the environment and the file.

    Raises:
        InvalidSettingError: naming the setting, what is wrong with it and where it can be set.
    """
    try:
        if flags is None:
            return kind(**values)
        return CliApp.run(kind, cli_args=flags, **values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "settings"
        message = f"{field}: {first['msg'].lower().removeprefix('value error, ')}, found {str(first.get('input'))[:80]!r}"
        flag = f"--{field.replace('_', '-')}"
        raise InvalidSettingError(message, hint=f"set it with {flag} or FLOWCTL_{field.upper()}") from error
    except (SettingsError, OSError, ValueError) as error:
        raise InvalidSettingError(f"the settings cannot be read: {error}") from error


def argv() -> list[str]:
    """The program's own arguments."""
    return sys.argv[1:]
