"""What a pipeline file says about containers: what of it cannot be obeyed, and what it loosens. Pure.

A container is strict by default: its user is not root, it has no capabilities and cannot gain any, its root file system is
read-only, and the number of its processes is limited. Whatever the file loosens is shown wherever the component is.
"""

import re
from collections.abc import Iterator
from typing import Final

from flowctl.spec.model import Component, Container, Driver, Volume
from flowctl.spec.problems import Path, Problem, quoted
from flowctl.spec.references import has_reference

OWN_TARGETS: Final = ("/run/flowctl", "/var/lib/flowctl")
"""Where flowctl puts a container's own files and its state."""
DEFAULT_PIDS: Final = 512

_VOLUME_NAME: Final = re.compile(r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}\Z")
_IMAGE: Final = re.compile(
    r"\A(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?\Z"
)


def container_problems(component: Component, driver: Driver, path: Path) -> Iterator[Problem]:
    """What of a component's container cannot be obeyed; ``driver`` is what starts the component."""
    if driver != "docker":
        for name in ("image", "container"):
            if getattr(component, name) is not None:
                yield Problem((*path, name), f"the {driver} driver runs no containers", "write driver: docker, or remove it")
        return
    if component.image is not None and not _IMAGE.match(component.image):
        message = f"{quoted(component.image)} is not the name of an image"
        yield Problem((*path, "image"), message, "for example registry.example:5000/team/parse:1.4 or name@sha256:…")
    container = component.container
    if container is None:
        return
    where = (*path, "container")
    if container.privileged and container.capabilities:
        yield Problem((*where, "capabilities"), "a privileged container has every capability", "remove one of the two")
    if len(set(container.capabilities)) != len(container.capabilities):
        yield Problem((*where, "capabilities"), "a capability stands twice", "name each once")
    yield from _volumes(component, container, where)


def _volumes(component: Component, container: Container, path: Path) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, volume in enumerate(container.volumes):
        where = (*path, "volumes", number)
        if not volume.source.startswith("/") and not _VOLUME_NAME.match(volume.source):
            message = f"{quoted(volume.source)} is neither an absolute path nor the name of a volume"
            yield Problem((*where, "source"), message, "write the whole path, or a name of letters, digits, '_', '.' and '-'")
        if "\0" in volume.source + volume.target or ".." in volume.target.split("/"):
            yield Problem((*where, "target"), f"{quoted(volume.target)} is not a plain path", "write where the program sees it")
        target = volume.target.rstrip("/")
        if not target or any(target == own or target.startswith(f"{own}/") for own in OWN_TARGETS):
            message = f"{quoted(volume.target)} is taken" if target else "the root file system is the image's"
            yield Problem((*where, "target"), message, "choose another place")
        if target in seen:
            yield Problem((*where, "target"), f"{quoted(volume.target)} stands twice", "each place can be one thing")
        seen.add(target)
        if component.replicas > 1 and not volume.read_only and volume.source.startswith("/"):
            message = f"{component.replicas} replicas would write into {quoted(volume.source)} at once"
            yield Problem(where, message, "write read_only: true, or replicas: 1")


def container_warnings(component: Component, driver: Driver, path: Path) -> Iterator[Problem]:
    """What is otherwise in a container than in a process, and easily overlooked."""
    if driver != "docker" or (component.container is not None and component.container.secrets_in_env):
        return
    for name, value in component.env.items():
        if has_reference(value):
            message = f"in a container the variable {name}_FILE names a file with the value; {name} itself is not set"
            yield Problem((*path, "env", name), message, "let the program read the file, or write secrets_in_env: true")


def is_path(volume: Volume) -> bool:
    """Whether a volume is a place of the host's own file system."""
    return volume.source.startswith("/")


def is_root(user: str) -> bool:
    """Whether ``user[:group]`` is root, or nobody in particular, which is root too."""
    name = user.partition(":")[0]
    return name in ("", "root") or (name.isdecimal() and int(name) == 0)


def loosened(component: Component) -> list[str]:
    """Which of a container's defaults the file has loosened, in short phrases; none for what is no container."""
    container = component.container
    if container is None:
        return []
    found = [
        (container.privileged, "privileged"),
        (container.user is not None and is_root(container.user), "runs as root"),
        (not container.read_only, "writable root file system"),
        (container.new_privileges, "may gain privileges"),
        (bool(container.capabilities), f"capabilities {', '.join(container.capabilities)}"),
        (container.network == "host", "the host's network"),
        (container.pids > DEFAULT_PIDS, f"up to {container.pids:,} processes"),
        (container.secrets_in_env, "secrets in its environment"),
    ]
    places = [volume for volume in container.volumes if is_path(volume)]
    paths = [f"host path {volume.source}{' (read-only)' if volume.read_only else ''}" for volume in places]
    return [text for applies, text in found if applies] + paths
