"""A pipeline as a service of something else: a Compose file, or a systemd unit. Pure; the file's own text is written elsewhere.

Both run ``flowctl run`` on the pipeline file, which is the control plane and its agent in one, and restart it when it fails. What
``${env:…}`` names is passed through by name, so no secret is in what is written.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, Final, cast

from flowctl.errors import UserError
from flowctl.spec.model import Pipeline

STOP_MARGIN_S: Final = 15
"""How much longer than its slowest component a whole pipeline may take to end."""
STATE: Final = "/var/lib/flowctl"
PLACE: Final = "/pipeline"
USER: Final = 65532
"""Whose the image's programs are."""
SOCKET: Final = "/var/run/docker.sock"

_ENV: Final = re.compile(r"(?<!\$)\$\{env:([A-Za-z_][A-Za-z0-9_]*)")
_PLAIN: Final = re.compile(r"\A[A-Za-z0-9_./:@%+=,-]+\Z")


def compose(pipeline: Pipeline, file: PurePath, image: str, writable: Sequence[PurePath] = ()) -> str:
    """A Compose file (YAML) that runs the pipeline in flowctl's image.

    ``file`` is absolute and its directory is mounted, read-only but for ``writable``, directories that are somewhere in it.
    """
    import yaml

    uses_docker = "docker" in drivers_of(pipeline)
    mounts: list[dict[str, Any]] = [
        {"type": "bind", "source": _dollars(str(file.parent)), "target": PLACE, "read_only": True},
        *(
            {"type": "bind", "source": _dollars(str(each)), "target": f"{PLACE}/{_dollars(str(each.relative_to(file.parent)))}"}
            for each in writable
        ),
        {"type": "volume", "source": "state", "target": STATE},
    ]
    service: dict[str, Any] = {
        "image": image,
        "command": ["flowctl", "run", "--yes", f"{PLACE}/{_dollars(file.name)}"],
        "environment": {
            "FLOWCTL_STATE_DIR": STATE,
            "FLOWCTL_NAME": pipeline.name,  # a container that is made anew is the same host
            **dict.fromkeys(variables_of(pipeline)),  # none: passed through if it is set
        },
        "volumes": mounts,
        "init": True,
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108  # the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "on-failure",
        "stop_grace_period": f"{stop_s(pipeline)}s",
    }
    if uses_docker:  # its containers are the host's, and reach this one over their bridges
        mounts.append({"type": "bind", "source": SOCKET, "target": SOCKET})
        service |= {"network_mode": "host", "group_add": ["${DOCKER_GID:-999}"]}
        service |= {"environment": {**service["environment"], "FLOWCTL_DRIVERS": "process,docker"}}
    head = f"# Runs the pipeline {pipeline.name}: docker compose -f this-file up --detach\n"
    head += f"# Its components are in {PLACE}, the pipeline file's directory. They can write to {STATE}"
    head += f" and, as user {USER}, to {', '.join(each.name for each in writable)}.\n" if writable else ", and nowhere else.\n"
    if uses_docker:
        head += f"# It may use the host's Docker engine ({SOCKET}), and with it everything on the host.\n"
        head += "# DOCKER_GID is the number of the group that the socket belongs to.\n"
    document: dict[str, Any] = {"name": pipeline.name, "services": {pipeline.name: service}, "volumes": {"state": {}}}
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def systemd(pipeline: Pipeline, file: PurePath, program: PurePath, writable: Sequence[PurePath] = ()) -> str:
    """A systemd unit that runs the pipeline as a user of its own, which may write to ``writable``; all paths are absolute.

    Raises:
        UserError: a path cannot stand in a unit.
    """
    name = pipeline.name
    wanted = variables_of(pipeline)
    lines = [
        f"# Runs the pipeline {name}: install as /etc/systemd/system/flowctl-{name}.service, then",
        f"#   systemctl daemon-reload && systemctl enable --now flowctl-{name}",
        *([f"# /etc/flowctl/{name}.env must set: {', '.join(wanted)}"] if wanted else []),
        "[Unit]",
        f"Description=flowctl pipeline {name}",
        "Wants=network-online.target",
        f"After=network-online.target{' docker.service' if 'docker' in drivers_of(pipeline) else ''}",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_word(str(program))} run --yes {_word(str(file))}",
        f"WorkingDirectory={_path(str(file.parent))}",
        f"EnvironmentFile=-/etc/flowctl/{name}.env",
        f"Environment=FLOWCTL_STATE_DIR=%S/flowctl/{name}",
        f"StateDirectory=flowctl/{name}",
        "StateDirectoryMode=0700",
        "Restart=on-failure",
        "RestartSec=2",
        "KillMode=mixed",
        f"TimeoutStopSec={stop_s(pipeline)}",
        "SuccessExitStatus=130",
        *("DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=read-only", "PrivateTmp=yes"),
        *("ProtectKernelTunables=yes", "ProtectControlGroups=yes", "RestrictSUIDSGID=yes"),
        *(f"ReadWritePaths={_quoted(str(each))}" for each in writable),
        *(["SupplementaryGroups=docker"] if "docker" in drivers_of(pipeline) else []),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def drivers_of(pipeline: Pipeline) -> set[str]:
    """What starts its components."""
    return {component.driver or pipeline.spec.driver for _, component in pipeline.components()}


def variables_of(pipeline: Pipeline) -> list[str]:
    """The environment variables that its references name, sorted."""
    texts = [text for _, component in pipeline.components() for text in _texts([component.config, component.env])]
    return sorted({name for text in texts for name in _ENV.findall(text)})


def stop_s(pipeline: Pipeline) -> int:
    """How long the whole pipeline may take to end, in seconds: its components end one after the other, upstream first."""
    return STOP_MARGIN_S + round(sum(component.stop_timeout_s for _, component in pipeline.components()))


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in cast("dict[str, object]", value).values():
                yield from _texts(item)
        case list():
            for item in cast("list[object]", value):
                yield from _texts(item)
        case _:
            pass


def _dollars(text: str) -> str:
    """Compose would fill in what a dollar begins."""
    return text.replace("$", "$$")


def _path(text: str) -> str:
    """A path as systemd reads it where no words are split."""
    if any(not letter.isprintable() for letter in text):
        raise UserError(f"the path {text!r} cannot stand in a unit", hint="move the file")
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One of several paths as systemd reads them."""
    escaped = _path(text).replace("\\", "\\\\").replace('"', '\\"')
    return escaped if _PLAIN.match(text) else f'"{escaped}"'


def _word(text: str) -> str:
    """One word of a command as systemd reads it."""
    return _quoted(text).replace("$", "$$")
