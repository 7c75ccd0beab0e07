"""Dead letters as people and programs read them. Pure."""

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flowctl.journal.events import ComponentLettersRedriven, ComponentRedriveRequested
from flowctl.journal.letters import Envelope, StoredLetter
from flowctl.journal.log import Entry
from flowctl_cli.terminal import Cell, age, one_line

KEPT: Final = "kept"
REDRIVING: Final = "redriving"
REDRIVEN: Final = "redriven"
FAILED: Final = "failed again"


class Fate(msgspec.Struct, frozen=True):
    """What became of a letter: ``kept``, ``redriving``, ``redriven`` or ``failed again``, since when (Unix ns), and why."""

    state: str = KEPT
    time_ns: int = 0
    error: str = ""


def fates(entries: Iterable[Entry]) -> dict[int, Fate]:
    """What became of each letter that was ever redriven, by number; ``entries`` in order."""
    found: dict[int, Fate] = {}
    for entry in entries:
        match entry.event:
            case ComponentRedriveRequested(letters=letters):
                found |= dict.fromkeys(letters, Fate(REDRIVING, entry.time_ns))
            case ComponentLettersRedriven(letters=letters, outcome=outcome, error=error):
                found |= dict.fromkeys(letters, Fate(REDRIVEN if outcome == "delivered" else FAILED, entry.time_ns, error))
            case _:
                pass
    return found


class ComponentLetters(msgspec.Struct, frozen=True, kw_only=True):
    """How many letters a component has, and how many of them are in which state."""

    component: str
    letters: int
    kept: int
    redriving: int
    redriven: int
    failed_again: int


class LetterView(msgspec.Struct, frozen=True, kw_only=True):
    """One letter without its payload. ``event`` is the event's id; ``redrive_…`` tell of its last redrive, if there was one."""

    number: int
    instance: str
    run: int
    event: str
    type: str
    time: str
    time_ms: int
    attempts: int
    error: str
    size_bytes: int
    state: str
    redrive_time: str | None = None
    redrive_error: str = ""


class WholeLetter(LetterView, frozen=True, kw_only=True):
    """One letter with everything. ``payload`` is JSON (``encoding`` json), text (text) or base64 (base64)."""

    incarnation: int
    event_time: str | None
    metadata: dict[str, str]
    encoding: str
    payload: Any


class LetterList(msgspec.Struct, frozen=True, kw_only=True):
    """The letters of a pipeline or a component: all of them counted, the newest shown, newest first."""

    total: int
    components: list[ComponentLetters]
    letters: list[LetterView]


def counted(envelopes: Iterable[Envelope], known: Mapping[int, Fate]) -> list[ComponentLetters]:
    """The letters by component."""
    counts: dict[str, dict[str, int]] = {}
    for envelope in envelopes:
        states = counts.setdefault(envelope.instance.component, dict.fromkeys((KEPT, REDRIVING, REDRIVEN, FAILED), 0))
        states[known.get(envelope.number, Fate()).state] += 1
    return [
        ComponentLetters(
            component=component,
            letters=sum(states.values()),
            kept=states[KEPT],
            redriving=states[REDRIVING],
            redriven=states[REDRIVEN],
            failed_again=states[FAILED],
        )
        for component, states in sorted(counts.items())
    ]


def view(stored: StoredLetter, fate: Fate) -> LetterView:
    """A letter in short."""
    return LetterView(**_common(stored, fate))


def whole(stored: StoredLetter, fate: Fate) -> WholeLetter:
    """A letter with everything."""
    letter = stored.letter
    encoding, payload = _payload(stored.payload)
    return WholeLetter(
        **_common(stored, fate),
        incarnation=letter.incarnation,
        event_time=_time(letter.time_ns),
        metadata=letter.metadata,
        encoding=encoding,
        payload=payload,
    )


def _common(stored: StoredLetter, fate: Fate) -> dict[str, Any]:
    letter = stored.letter
    return {
        "number": stored.number,
        "instance": str(letter.instance),
        "run": letter.run,
        "event": letter.event_id,
        "type": letter.type,
        "time": _time(stored.time_ns) or "",
        "time_ms": stored.time_ns // 1_000_000,
        "attempts": letter.attempts,
        "error": letter.error,
        "size_bytes": len(stored.payload),
        "state": fate.state,
        "redrive_time": _time(fate.time_ns),
        "redrive_error": fate.error,
    }


def _payload(payload: bytes) -> tuple[str, Any]:
    try:
        return "json", msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return "text", payload.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(payload).decode()


def _time(time_ns: int) -> str | None:
    if not 0 < time_ns < 2**62:
        return None
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


HEAD: Final = ("ID", "INSTANCE", "AGE", "TRIES", "STATE", "EVENT", "ERROR")


def row(letter: LetterView, now_ms: float) -> list[Cell | str]:
    """A letter as a row of a table; of an error of many lines the last, which says most in a traceback, is left to ``show``."""
    return [
        str(letter.number),
        letter.instance,
        age(now_ms - letter.time_ms),
        str(letter.attempts),
        Cell(letter.state, "good" if letter.state == REDRIVEN else "bad" if letter.state == FAILED else ""),
        letter.event,
        one_line(letter.redrive_error or letter.error)[:200],
    ]


def lines(letter: WholeLetter) -> list[str]:
    """A letter with everything, as lines."""
    shown = [
        ("letter", str(letter.number)),
        ("instance", f"{letter.instance} (incarnation {letter.incarnation}, run {letter.run})"),
        ("event", letter.event),
        *([("type", letter.type)] if letter.type else []),
        *([("event time", letter.event_time)] if letter.event_time else []),
        ("given up", f"{letter.time} after {letter.attempts} {'attempt' if letter.attempts == 1 else 'attempts'}"),
        ("error", letter.error),
        ("state", letter.state + (f" since {letter.redrive_time}" if letter.redrive_time else "")),
        *([("last error", letter.redrive_error)] if letter.redrive_error else []),
        *(("metadata", f"{key} = {value}") for key, value in sorted(letter.metadata.items())),
        ("payload", f"{letter.size_bytes:,} bytes, {letter.encoding}"),
    ]
    head = [f"{name:<11} {_indented(value)}" for name, value in shown]
    if letter.encoding == "json":
        body = msgspec.json.format(msgspec.json.encode(letter.payload), indent=2).decode()
    else:
        body = str(letter.payload)
    return [*head, *(one_line(line) for line in body.split("\n"))]


def _indented(text: str) -> str:
    return ("\n" + " " * 12).join(one_line(line) for line in text.split("\n"))
