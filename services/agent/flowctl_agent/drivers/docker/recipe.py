"""What the engine is told to make of a launch, how it is found again, and how its end reads. Pure.

Everything that belongs to one agent carries that agent's ``owner``, so that two agents on one engine never touch each other's.
A container is as strict as the engine can make it; only the pipeline file's ``container`` loosens it.
"""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from flowctl.errors import FlowctlError
from flowctl.ids import InstanceId
from flowctl.spec.containers import is_path, is_root
from flowctl.spec.model import Container as Options
from flowctl_agent.drivers import Launch, RunKey
from flowctl_agent.drivers.docker.engine import Container, Image

OWNER: Final = "flowctl.owner"
INSTANCE: Final = "flowctl.instance"
INCARNATION: Final = "flowctl.incarnation"
PIPELINE: Final = "flowctl.pipeline"

NOBODY: Final = "65532:65532"
"""Whom a program runs as if neither the file nor the image names a user that is not root."""
FILES: Final = "/run/flowctl"
STATE: Final = "/var/lib/flowctl"
STATE_FOLDER: Final = "state"
"""Under ``STATE``: the engine lets nobody own the root of a volume but root."""
CONFIG_FILE: Final = f"{FILES}/config.json"

_TINI: Final = re.compile(r"\A\[FATAL tini \(\d+\)\] exec .* failed: (?P<why>.*)\Z")
_NOT_STARTED: Final = (126, 127)
_RUNTIME_TERMINATED: Final = 2
_BEGINNING_NS: Final = 500_000_000
_TIME: Final = re.compile(r"\A(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z\Z")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Ports(msgspec.Struct, frozen=True):
    """Where the program listens: 0 is any free port. ``published`` are also the host's, at this address; empty: at none."""

    data: int = 0
    health: int = 0
    published: str = ""


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container is in the world: its network and address there, the registry from there, what it tells its peers."""

    network: str
    address: str
    registry: str
    listen: str
    advertise: str
    ports: Ports


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended; see ``Run``."""

    code: int | None = None
    signal: int | None = None
    failure: str = ""
    cause: str = ""
    stopped: bool = False
    started_ns: int = 0
    exited_ns: int = 0


def container_name(owner: str, key: RunKey) -> str:
    """What people see in ``docker ps``."""
    return f"flowctl.{key.instance}.{key.incarnation}.{owner}"


def network_name(owner: str, pipeline: str) -> str:
    """The network of a pipeline on this host."""
    return f"flowctl.{pipeline}.{owner}"


def state_name(owner: str, instance: InstanceId) -> str:
    """The volume that is an instance's state directory."""
    return f"flowctl.{instance}.{owner}"


def owned(owner: str) -> str:
    """The label by which everything of an agent is found."""
    return f"{OWNER}={owner}"


def pipeline_labels(owner: str, pipeline: str) -> dict[str, str]:
    """The labels of what the instances of a pipeline share."""
    return {OWNER: owner, PIPELINE: pipeline}


def key_of(labels: Mapping[str, str]) -> RunKey | None:
    """Which run a container is."""
    try:
        return RunKey(InstanceId.parse(labels[INSTANCE]), int(labels[INCARNATION]))
    except (KeyError, ValueError, FlowctlError):
        return None


def chosen_user(options: Options, image: Image) -> str:
    """Whom the program runs as: the file's word, else the image's unless that is root, else nobody."""
    if options.user is not None:
        return options.user
    return NOBODY if is_root(image.user) else image.user


def container_config(
    owner: str, launch: Launch, image: Image, spot: Spot, *, log_file_bytes: int, log_files: int
) -> dict[str, Any]:
    """The body of the engine's ``POST /containers/create``."""
    options = launch.container
    env = {
        **({"HOME": "/tmp"} if chosen_user(options, image) == NOBODY else {}),  # noqa: S108  # the container's own
        **launch.env,
        "FLOWCTL_CONFIG_FILE": CONFIG_FILE,
        "FLOWCTL_STATE_DIR": f"{STATE}/{STATE_FOLDER}",
        "FLOWCTL_ENDPOINT": spot.registry,
        "FLOWCTL_LISTEN": f"{spot.listen}:{spot.ports.data}",
        "FLOWCTL_HEALTH_LISTEN": f"{spot.listen}:{spot.ports.health}",
        "FLOWCTL_ADVERTISE_HOST": spot.advertise,
        **(launch.secret_env if options.secrets_in_env else _file_names(launch)),
    }
    labels = pipeline_labels(owner, launch.key.instance.pipeline)
    published = [port for port in (spot.ports.data, spot.ports.health) if port and spot.ports.published]
    return {
        "Image": launch.image,
        **({"Entrypoint": launch.argv[:1], "Cmd": launch.argv[1:]} if launch.has_program else {}),
        **({"Cmd": launch.argv} if launch.argv and not launch.has_program else {}),
        "Env": [f"{name}={value}" for name, value in env.items()],
        "User": chosen_user(options, image),
        "Labels": {**labels, INSTANCE: str(launch.key.instance), INCARNATION: str(launch.key.incarnation)},
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "ExposedPorts": {f"{port}/tcp": {} for port in published},
        "HostConfig": _host_config(owner, launch, spot, log_file_bytes, log_files),
        "NetworkingConfig": {"EndpointsConfig": {spot.network: {"IPAMConfig": {"IPv4Address": spot.address}}}}
        if spot.address
        else {},
    }


def _file_names(launch: Launch) -> dict[str, str]:
    return {f"{name}_FILE": f"{FILES}/env/{name}" for name in launch.secret_env}


def files_of(launch: Launch) -> dict[str, bytes]:
    """The files that only the program can read, under ``FILES``."""
    secret = {} if launch.container.secrets_in_env else launch.secret_env
    return {"config.json": launch.config, **{f"env/{name}": value.encode() for name, value in secret.items()}}


def _host_config(owner: str, launch: Launch, spot: Spot, log_file_bytes: int, log_files: int) -> dict[str, Any]:
    options, resources = launch.container, launch.resources
    memory = resources.memory_bytes if resources is not None else None
    cpu = resources.cpu if resources is not None else None
    published = spot.ports.published
    return {
        "NetworkMode": spot.network,
        "PortBindings": {
            f"{port}/tcp": [{"HostIp": published, "HostPort": str(port)}]
            for port in (spot.ports.data, spot.ports.health)
            if port and published
        },
        "Init": True,  # reaps orphans, and lets signals end a program that does not care for them
        "Privileged": options.privileged,
        "CapDrop": [] if options.privileged else ["ALL"],
        "CapAdd": [] if options.privileged else list(options.capabilities),
        "SecurityOpt": [] if options.new_privileges else ["no-new-privileges"],
        "ReadonlyRootfs": options.read_only,
        "Tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,mode=1777,size={options.scratch_bytes}"},  # noqa: S108  # the container's own
        "PidsLimit": options.pids,
        "IpcMode": "private",
        **({"Memory": memory, "MemorySwap": memory} if memory is not None else {}),
        **({"NanoCpus": round(cpu * 1e9)} if cpu is not None else {}),
        "Mounts": _mounts(owner, launch),
        "RestartPolicy": {"Name": "no"},  # whether it is started again is the agent's decision
        "LogConfig": {"Type": "json-file", "Config": {"max-size": str(log_file_bytes), "max-file": str(log_files)}},
    }


def _mounts(owner: str, launch: Launch) -> list[dict[str, Any]]:
    instance = launch.key.instance
    labels = {**pipeline_labels(owner, instance.pipeline), INSTANCE: str(instance)}
    mounts: list[dict[str, Any]] = [
        {"Type": "volume", "Target": FILES, "VolumeOptions": {"NoCopy": True}},
        {
            "Type": "volume",
            "Source": state_name(owner, instance),
            "Target": STATE,
            "VolumeOptions": {"NoCopy": True, "Labels": labels},
        },
    ]
    for volume in launch.container.volumes:
        kind = "bind" if is_path(volume) else "volume"
        mounts.append({"Type": kind, "Source": volume.source, "Target": volume.target, "ReadOnly": volume.read_only})
    return mounts


def user_ids(user: str, passwd: str, group: str) -> tuple[int, int]:
    """The numbers of ``user[:group]``, whose names the image's two files explain; who is not there is nobody."""
    name, _, group_name = user.partition(":")
    nobody = int(NOBODY.partition(":")[0])
    rows = [line.split(":") for line in passwd.splitlines()]
    row = next((each for each in rows if len(each) > 3 and name in (each[0], each[2])), None)
    uid = int(name) if name.isdecimal() else int(row[2]) if row is not None and row[2].isdecimal() else nobody
    gid = int(row[3]) if row is not None and row[3].isdecimal() else 0 if uid == 0 else uid
    if group_name:
        found = next((each.split(":") for each in group.splitlines() if each.split(":")[0] == group_name), None)
        gid = int(group_name) if group_name.isdecimal() else int(found[2]) if found is not None and len(found) > 2 else gid
    return uid, gid


def ending_of(container: Container | None, launch_argv: list[str], image: str, last_words: list[str], *, oom: bool) -> Ending:
    """How a container ended; None is one that nobody can ask any more."""
    if container is None:
        return Ending()
    seen = Ending(started_ns=time_ns(container.started), exited_ns=time_ns(container.finished))
    code = container.code
    fatal = next((found for line in reversed(last_words) if (found := _TINI.match(line))), None)
    if code in _NOT_STARTED and fatal is not None:
        return replace(seen, code=code, failure=not_started(launch_argv, image, fatal["why"]))
    if oom or container.oom_killed:
        return replace(seen, signal=9, cause="the kernel killed it: it needed more memory than it may use")
    if 128 < code <= 128 + 64:
        return replace(seen, signal=code - 128)
    return replace(seen, code=code)


def asked_to_end(ending: Ending) -> Ending:
    """The ending of a run that was stopped. The runtime's own beginning, before the program's, answers SIGTERM with code 2."""
    early = ending.code == _RUNTIME_TERMINATED and ending.exited_ns - ending.started_ns < _BEGINNING_NS
    return replace(ending, stopped=True, code=None if early else ending.code, signal=15 if early else ending.signal)


def not_started(argv: list[str], image: str, why: str) -> str:
    """A sentence for a program that the image does not have, or not as a program."""
    if not argv:
        return f"the program of image {image} cannot be started: {why}"
    where = "" if "/" in argv[0] else " on the PATH"
    return f"the program {argv[0]!r} cannot be started{where} in image {image}: {why}"


def time_ns(text: str) -> int:
    """Unix nanoseconds of the engine's RFC 3339 text; 0 for its zero time and for what is none."""
    found = _TIME.match(text)
    if found is None or text.startswith("0001-"):
        return 0
    whole = dt.datetime.fromisoformat(found[1] + "+00:00") - _EPOCH
    return (whole.days * 86_400 + whole.seconds) * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))
