"""Which entries go where: one line of the settings a route. Pure.

``[NAME:] SUBJECT [FIELD=VALUE …] -> URL [structured]``, for example
``component.*.*.*.status_changed status=unhealthy -> https://alerts.example/hook``.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from flowctl.errors import InvalidSettingError
from flowctl.ids import is_id
from flowctl.journal import subjects
from flowctl.journal.log import Entry, Poison
from flowctl.journal.subscriptions import durable

_NAMED = re.compile(r"\A\s*([a-z0-9][a-z0-9_-]{0,62})\s*:\s+(.*)\Z", re.DOTALL)
_CONDITION = re.compile(r"\A([a-z_]+)=(.*)\Z")
_REFERENCE = re.compile(r"\$\{[^}]*\}")
_EXAMPLE: Final = "component.*.*.*.status_changed -> https://alerts.example/hook"


class Route(msgspec.Struct, frozen=True):
    """One route. ``subject`` is a filter of the journal; ``url`` may hold ``${env:…}``; ``where`` are fields that must be so."""

    name: str
    subject: str
    url: str
    where: tuple[tuple[str, str], ...] = ()
    structured: bool = False

    @property
    def durable(self) -> str:
        """The name of its durable subscription."""
        return durable(self.name)

    @property
    def shown_url(self) -> str:
        """The address as anybody may see it: a reference unresolved, else the host alone: paths and queries may hold tokens."""
        if self.url.startswith("${"):
            return self.url
        parts = urlsplit(_REFERENCE.sub("", self.url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"

    def wants(self, entry: Entry) -> bool:
        """Whether the entry, which is of the route's subject, is to be told."""
        if isinstance(entry.event, Poison):
            return False
        if not self.where:
            return True
        try:
            data: object = msgspec.json.decode(entry.data)
        except msgspec.DecodeError:
            return False
        fields = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        return all(name in fields and _text(fields[name]) == value for name, value in self.where)


def parse(text: str) -> Route:
    """Read one line.

    Raises:
        InvalidSettingError: it has another shape, can match nothing, or leads nowhere.
    """
    line = " ".join(text.split())
    left, arrow, right = line.partition(" -> ")
    if not arrow:
        raise _refused(line, "it has no ->")
    named = _NAMED.match(left)
    words = (named[2] if named else left).split()
    target = right.split()
    if not words or not target or len(target) > 2 or (len(target) == 2 and target[1] not in ("structured", "binary")):
        raise _refused(line, "expected SUBJECT -> URL, then perhaps structured")
    where = [_CONDITION.match(word) for word in words[1:]]
    for word, found in zip(words[1:], where, strict=True):
        if found is None:
            raise _refused(line, f"{word!r} is not FIELD=VALUE")
    _check_url(line, target[0])
    subject = _subject(line, words[0])
    digest = hashlib.sha256(f"{subject} {words[1:]} {target[0]}".encode()).hexdigest()[:10]
    return Route(
        name=named[1] if named else digest,
        subject=subject,
        url=target[0],
        where=tuple((found[1], found[2]) for found in where if found),
        structured=target[-1] == "structured",
    )


def parse_all(lines: Iterable[str]) -> list[Route]:
    """Read all lines.

    Raises:
        InvalidSettingError: one is wrong, or two have one name.
    """
    routes = [parse(line) for line in lines if line.strip()]
    names = [route.name for route in routes]
    for name in names:
        if names.count(name) > 1:
            raise InvalidSettingError(f"notify: two routes are called {name!r}", hint="name each: NAME: SUBJECT -> URL")
    return routes


def _subject(line: str, pattern: str) -> str:
    """The whole filter: ``flowctl.journal.`` may be left out; a shape that no entry has is refused."""
    short = pattern.removeprefix(f"{subjects.JOURNAL_ROOT}.")
    parts = short.split(".")
    open_end = parts[-1] == ">"
    if not all(part == "*" or is_id(part) for part in (parts[:-1] if open_end else parts)):
        raise _refused(line, f"{pattern!r} is not a subject of the journal")
    kind, event = parts[0], parts[-1]
    if open_end or kind == "*":
        return f"{subjects.JOURNAL_ROOT}.{short}"
    sample = ".".join("0" if part == "*" else part for part in parts)
    if subjects.parse_entry_subject(f"{subjects.JOURNAL_ROOT}.{sample}") is None:
        raise _refused(line, f"no entry has a subject like {pattern!r}")
    known = {each for of, each in subjects.TYPES if of == kind}
    if event not in ("*", *known):
        raise _refused(line, f"there is no event {event!r} of a {kind}: {', '.join(sorted(known))}")
    return f"{subjects.JOURNAL_ROOT}.{short}"


def _check_url(line: str, url: str) -> None:
    if url.startswith("${"):
        return
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        right = False
    if not right:
        raise _refused(line, "the address is not http:// or https://")


def _refused(line: str, why: str) -> InvalidSettingError:
    left = line.partition(" -> ")[0]  # what follows may be a secret
    return InvalidSettingError(f"notify: the route {left[:120]!r}: {why}", hint=f"for example {_EXAMPLE}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
