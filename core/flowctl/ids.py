"""The names of things: ids that are safe as subject tokens, file names and host names, and what is built from them."""

import re
from typing import Final, Self

import msgspec

from flowctl.errors import InvalidIdError

ID_PATTERN: Final = r"[a-z0-9][a-z0-9_-]{0,62}"
MAX_INDEX: Final = 9_999

_ID = re.compile(rf"\A{ID_PATTERN}\Z")


def is_id(value: str) -> bool:
    """Whether ``value`` may name a pipeline, component or host."""
    return _ID.match(value) is not None


def check_id(value: str, what: str) -> str:
    """Return ``value`` if it may name a ``what``.

    Raises:
        InvalidIdError: with the nearest id that would do, where there is one.
    """
    if is_id(value):
        return value
    nearest = re.sub(r"[^a-z0-9_-]+", "-", value.lower()).strip("-_")[:63]
    hint = f"for example {nearest!r}" if is_id(nearest) else None
    rule = "lower-case letters, digits, '-' and '_', starting with a letter or digit, at most 63 characters"
    raise InvalidIdError(f"{value[:80]!r} is not a valid {what} id: ids are {rule}", hint=hint)


class InstanceId(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """One running copy of a component: ``<pipeline>.<component>.<index>``, the index counting from 0."""

    pipeline: str
    component: str
    index: int

    def __str__(self) -> str:
        return f"{self.pipeline}.{self.component}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<pipeline>.<component>.<index>``.

        Raises:
            InvalidIdError: if the text has another shape or a part is not a valid id.
        """
        parts = text.split(".")
        if len(parts) != 3:
            raise InvalidIdError(f"{text[:80]!r} is not an instance: expected <pipeline>.<component>.<index>")
        return cls.checked(parts[0], parts[1], parts[2])

    @classmethod
    def checked(cls, pipeline: str, component: str, index: str | int) -> Self:
        """An instance id of parts that come from outside.

        Raises:
            InvalidIdError: if a part is not valid.
        """
        text = str(index)
        if not text.isascii() or not text.isdigit() or int(text) > MAX_INDEX:
            raise InvalidIdError(f"{text[:20]!r} is not an instance index: expected 0 to {MAX_INDEX}")
        return cls(check_id(pipeline, "pipeline"), check_id(component, "component"), int(text))
