"""A component's ``config`` as a struct, or one sentence that says what is wrong with it."""

import difflib
import re
from typing import Any, TypeVar

import msgspec

from flowctl.errors import InvalidSettingError
from flowctl_sdk import Context


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every component's configuration has in common: a field that it does not know is refused."""


C = TypeVar("C", bound=Config)

_PLACE = re.compile(r" - at `\$\.?(.*)`\Z")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")


def read_config(ctx: Context, shape: type[C]) -> C:
    """The component's configuration.

    Raises:
        InvalidSettingError: naming the field, what was found and what was expected.
    """
    try:
        return msgspec.convert(ctx.config, shape)
    except msgspec.ValidationError as error:
        raise invalid(ctx, *_explain(str(error), ctx.config, shape)) from error


def invalid(ctx: Context, field: str, problem: str, hint: str | None = None) -> InvalidSettingError:
    """The error for a field of ``config`` that parses and still cannot be obeyed."""
    place = f"{ctx.instance.component}: config{'.' + field if field else ''}"
    return InvalidSettingError(problem, place=place, hint=hint)


def _explain(message: str, config: dict[str, Any], shape: type[Config]) -> tuple[str, str, str | None]:
    """Field, problem and hint of msgspec's message."""
    field = ""
    if place := _PLACE.search(message):
        field, message = place[1], message[: place.start()]
    if unknown := _UNKNOWN.search(message):
        known = [name.encode_name for name in msgspec.structs.fields(shape)]
        near = difflib.get_close_matches(unknown[1], known, n=1) if not field else []
        hint = f"did you mean {near[0]!r}?" if near else (f"it has {', '.join(known)}" if not field else None)
        return field, f"there is no field {unknown[1]!r} here", hint
    if missing := _MISSING.search(message):
        return field, f"{missing[1]!r} is missing", None
    value: Any = config
    for part in re.findall(r"[^.\[\]]+", field):
        value = value.get(part) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    found = f", found {value!r}"[:120] if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    return field, message[:1].lower() + message[1:] + found, None
