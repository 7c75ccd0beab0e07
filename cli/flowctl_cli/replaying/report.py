"""What a replay found: how many decisions are the same, and which are not. Pure."""

from typing import Any, Literal

import msgspec
from msgspec import field

from flowctl.journal.events import JournalEvent

Maker = Literal["health", "orchestrator", "agent"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One decision that is another one now.

    ``seq`` is the entry that records it; of one that was never recorded the entry after which it is made now. ``recorded`` and
    ``decided`` are the two versions as JSON objects, None where there is none; times are Unix nanoseconds by the journal.
    ``then`` is what would have followed at once.
    """

    service: Maker
    subject: str
    seq: int
    time_ns: int
    why: str
    recorded: dict[str, Any] | None = None
    decided: dict[str, Any] | None = None
    decided_time_ns: int | None = None
    then: list[str] = field(default_factory=list[str])


class Count(msgspec.Struct):
    """Of one service: how many decisions were recorded, and how many are made again."""

    recorded: int = 0
    same: int = 0


class Report(msgspec.Struct, kw_only=True):
    """The outcome. ``first`` and ``last`` are the sequences that were replayed; ``differences`` are in the journal's order."""

    first: int
    last: int
    entries: int
    heartbeats: int
    heartbeats_since_ns: int | None
    settings: dict[str, float]
    decisions: dict[Maker, Count]
    differences: list[Difference]
    notes: list[str] = field(default_factory=list[str])


def as_json(event: JournalEvent) -> dict[str, Any]:
    """An event as the journal writes it, without what equals its default."""
    return msgspec.to_builtins(event)
