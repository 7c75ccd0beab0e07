"""What components ask of the registry, as plain values: independent of the wire dialect they came in. Pure."""

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.journal.events import DeregisterReason
from flowctl.spec.model import Kind


class Caller(msgspec.Struct, frozen=True):
    """Who asks: an instance at one of its incarnations (counting from 1)."""

    instance: InstanceId
    incarnation: int


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """A program announces itself. ``address`` is its data plane's host:port, ``boot_id`` names this run of the program."""

    caller: Caller
    kind: Kind
    boot_id: str
    address: str = ""
    health_endpoint: str = ""
    name: str = ""
    version: str = ""
    description: str = ""
    output_types: list[str] = field(default_factory=list[str])
    labels: dict[str, str] = field(default_factory=dict[str, str])


class Deregister(msgspec.Struct, frozen=True, kw_only=True):
    """A program ends on purpose."""

    caller: Caller
    reason: DeregisterReason
    detail: str = ""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """Every event of a source up to ``position`` is in every sink; ``cursor`` is the source's own description of that place."""

    caller: Caller
    position: int
    cursor: bytes = b""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which instances to list: all of them, of one pipeline, of one kind."""

    pipeline: str | None = None
    kind: Kind | None = None


class PutLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that the caller gave up on: its identity, why, after how many attempts. ``time_ns`` is the event's own."""

    caller: Caller
    origin: str
    position: int
    path: str
    payload: bytes
    error: str
    attempts: int
    type: str = ""
    time_ns: int = 0
    metadata: dict[str, str] = field(default_factory=dict[str, str])


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a redriven letter: ``delivered`` to every sink, or failed again with an error."""

    number: int
    delivered: bool
    error: str = ""


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller says of letters that it was given once more."""

    caller: Caller
    outcomes: list[Outcome]


class RedriveWish(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters somebody wants to have processed once more: these, or all that were never delivered."""

    pipeline: str
    component: str | None = None
    numbers: list[int] = field(default_factory=list[int])
