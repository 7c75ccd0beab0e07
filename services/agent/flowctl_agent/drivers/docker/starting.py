"""Starting one container with an engine, step by step. Blocking; leaves nothing behind when a step fails."""

import contextlib
from typing import Any, Final

from flowctl.errors import DriverError
from flowctl.spec.containers import is_root
from flowctl_agent.drivers import Launch
from flowctl_agent.drivers.docker import recipe
from flowctl_agent.drivers.docker.archive import archive
from flowctl_agent.drivers.docker.engine import Container, Engine, EngineRefusedError, Image

PORT_TRIES: Final = 4
_TAKEN: Final = ("port is already allocated", "address already in use")
_EXEC: Final = ("exec:", "starting container process", "no such file or directory", "permission denied")


class TakenError(DriverError):
    """A port or an address has gone to somebody else."""


def find_image(engine: Engine, launch: Launch) -> Image | str:
    """The image, fetched if it must be; a sentence if it cannot be had.

    Raises:
        DriverError: its registry, or the engine, failed.
    """
    name, policy = launch.image, launch.container.pull
    found = engine.image(name)
    if policy == "never" or (policy == "if_missing" and found is not None):
        if found is None:
            return f"the image {name} is not on this host, and its pull policy is never"
        return _usable(found, launch)
    try:
        engine.pull(name)
    except EngineRefusedError as error:
        return f"the image {name} cannot be had: {error.message}"
    except DriverError as error:
        raise DriverError(f"the image {name} could not be fetched: {error.message}") from error
    found = engine.image(name)
    return _usable(found, launch) if found is not None else f"the image {name} is not there although it was fetched"


def _usable(image: Image, launch: Launch) -> Image | str:
    if launch.has_program or image.has_program:
        return image
    return f"the image {launch.image} names no program: name one with command"


def begin(engine: Engine, name: str, config: dict[str, Any], launch: Launch) -> Container | str:
    """Create the container, give it its files, start it: how it is then, or why it cannot be started.

    Raises:
        TakenError: a port or an address is taken: another one may do.
        DriverError: the engine failed.
    """
    try:
        container = _created(engine, name, config)
    except EngineRefusedError as error:
        return f"its container cannot be made: {error.message}"
    try:
        uid, gid = _ids(engine, container, config["User"])
        if uid == 0 and not is_root(launch.container.user or recipe.NOBODY):
            engine.remove(container)
            return f'the user {config["User"]} of image {launch.image} is root: write user: "0" in the container if that is meant'
        engine.put(container, recipe.FILES, archive(recipe.files_of(launch), uid, gid))
        engine.put(container, recipe.STATE, archive({}, uid, gid, folders=(recipe.STATE_FOLDER,)))
        engine.start(container)
        found = engine.inspect(container)
    except DriverError as error:
        with contextlib.suppress(DriverError):
            engine.remove(container)
        if any(word in error.message for word in _TAKEN):
            raise TakenError(error.message) from error
        if isinstance(error, EngineRefusedError) or all(word in error.message for word in _EXEC[:2]):
            return _sentence(error.message, launch)
        raise
    if found is None:
        raise DriverError("its container was removed while it started")
    return found


def _created(engine: Engine, name: str, config: dict[str, Any]) -> str:
    try:
        return engine.create(name, config)
    except EngineRefusedError as error:
        if error.status != 409:
            raise
    engine.remove(name)  # left by a start that was cut short
    return engine.create(name, config)


def _ids(engine: Engine, container: str, user: str) -> tuple[int, int]:
    """The numbers of the program's user and group: only they can read the files that the container is given."""
    name, _, group = user.partition(":")
    named = not name.isdecimal() or not (group or "0").isdecimal() or not group
    passwd = (engine.read_file(container, "/etc/passwd") or b"") if named else b""
    groups = (engine.read_file(container, "/etc/group") or b"") if group and not group.isdecimal() else b""
    return recipe.user_ids(user, passwd.decode("utf-8", "replace"), groups.decode("utf-8", "replace"))


def _sentence(message: str, launch: Launch) -> str:
    """Of the runtime's long message, what the author of the pipeline can use."""
    if "exec:" in message:
        return recipe.not_started(launch.argv, launch.image, message.rpartition("exec:")[2].strip())
    return f"its container cannot be started: {message}"
