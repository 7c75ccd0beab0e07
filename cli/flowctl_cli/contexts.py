"""Contexts: names for control planes, kept in a file of the user's, so that no address has to be typed twice.

``$XDG_CONFIG_HOME/flowctl/contexts.json`` (``~/.config``), readable by its owner alone because an address may hold a credential.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec
from msgspec import field

from flowctl.errors import InvalidSettingError, NotFoundError

LOCAL: Final = "local"
"""The context that is always there: the control plane of the state directory."""


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One control plane: its NATS servers, and their monitoring addresses; both separated by commas."""

    nats: str
    monitor: str = ""


class Contexts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that are known by name, and the one that is used where nothing else is said."""

    current: str = LOCAL
    known: dict[str, Context] = field(default_factory=dict[str, Context])

    def named(self, name: str) -> Context | None:
        """The context of that name; None is the local one.

        Raises:
            NotFoundError: there is none.
        """
        if name == LOCAL:
            return None
        found = self.known.get(name)
        if found is None:
            raise NotFoundError(f"there is no context {name[:80]!r}", hint="`flowctl context list` shows those there are")
        return found


def file() -> Path:
    """Where they are kept."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "flowctl" / "contexts.json"


def read() -> Contexts:
    """What is there; nothing if there is no file.

    Raises:
        InvalidSettingError: the file cannot be read.
    """
    path = file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidSettingError(f"{path} cannot be read: {error}", hint="correct it, or remove it") from error


def write(contexts: Contexts) -> None:
    """Keep them; whoever reads meanwhile sees the old ones or the new ones.

    Raises:
        InvalidSettingError: the file cannot be written.
    """
    path = file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".contexts-", delete=False) as made:  # mode 0600
            made.write(msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n")
        Path(made.name).replace(path)
    except OSError as error:
        raise InvalidSettingError(f"{path} cannot be written: {error}") from error
