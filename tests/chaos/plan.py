"""What a schedule is: a graph, its events and its faults, all from one seed. Pure: the same seed gives the same bytes."""

import itertools
import random
from collections.abc import Callable
from typing import Final, Literal

import msgspec

FaultKind = Literal[
    "kill",
    "pause",
    "graceful",
    "zombie",
    "reset",
    "drop",
    "delay",
    "half_open",
    "scale",
    "registry",
    "restart",
    "change",
    "join",
    "leave",
]
Focus = Literal["all", "kill", "backlog", "zombie", "plane"]

KEYS: Final = 16
EVENTS: Final = 12_000
CUTS: Final = ("reset", "drop", "delay", "half_open")
ABRUPT: Final = ("kill", "zombie", "scale")
"""Faults that take events from an instance: some schedules have none of these."""

OUTBOXES: Final = (512, 2_048, 8_192)
"""How many unacknowledged events an edge keeps: the last is what the SDK allows, the others are full sooner."""

_PROCESSORS: Final = ("same", "twice", "some", "slow", "batched", "picky", "picky")
_LAST_PROCESSORS: Final = (*_PROCESSORS, "windowed", "windowed")


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A component of the graph; ``program`` is one of ``programs.py``. ``stays`` is False for one that is not there all the time.

    ``drops`` says ``when_full: drop`` of its inputs, ``window`` is the events of a window, ``pause_ms`` how long a write takes.
    """

    name: str
    kind: Literal["source", "processor", "sink"]
    program: str
    inputs: tuple[str, ...] = ()
    replicas: int = 1
    partition_by: str = ""
    pause_ms: int = 0
    drops: bool = False
    window: int = 0
    stays: bool = True


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that goes wrong, ``at_ms`` after the first event has arrived, for ``for_ms``.

    ``side`` is the end of a half-open connection that is closed; ``replicas`` what a component is scaled to. A component that
    begins with ``@`` is a part of the control plane.
    """

    at_ms: int
    kind: FaultKind
    component: str
    index: int = 0
    for_ms: int = 0
    side: Literal["", "dialling", "serving"] = ""
    replicas: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule. ``events`` is what each instance of a source emits, in bursts of ``burst``; ``outbox`` one of ``OUTBOXES``.

    ``services`` says how the control plane runs: not at all, all in ``one`` process, or ``apart``.
    """

    seed: int
    focus: Focus
    shape: str
    parts: tuple[Part, ...]
    events: int
    burst: int
    outbox: int
    lasts_ms: int
    faults: tuple[Fault, ...]
    services: Literal["", "one", "apart"] = ""

    def part(self, name: str) -> Part:
        """The component of this name."""
        return next(part for part in self.parts if part.name == name)

    def encoded(self) -> bytes:
        """The plan as JSON, a line for each component and fault."""
        fields = msgspec.to_builtins(self)
        lines = [f' "{name}": {_json(value)}' for name, value in fields.items() if name not in {"parts", "faults"}]
        for name in ("parts", "faults"):
            items = ",\n  ".join(_json(item) for item in fields[name])
            lines.append(f' "{name}": [\n  {items}\n ]' if items else f' "{name}": []')
        return ("{\n" + ",\n".join(lines) + "\n}").encode()


def plan(seed: int, focus: Focus = "all", events: int = EVENTS) -> Plan:
    """The schedule of this seed: of the data plane alone with any focus but ``plane``.

    A focus other than these two has few components and one kind of fault. ``events`` is what all sources emit together, or a
    little less; it changes nothing else.
    """
    if focus == "plane":
        return _plane(seed, events)
    chance = random.Random(f"{seed}/{focus}")
    if focus == "all":
        shape = chance.choice(sorted(_SHAPES))
        parts = _SHAPES[shape](chance)
    else:
        shape, parts = "linear", (_source("s"), _part(chance, "p0", ("s",), "same"), _sink(chance, "k", "p0"))
    emitters = sum(part.replicas for part in parts if part.kind == "source")
    lasts_ms = chance.randrange(800, 1_400) if focus != "zombie" else 3_000
    faults = sorted(_FOCUSED[focus](chance, parts, lasts_ms), key=lambda fault: fault.at_ms)
    return Plan(
        seed=seed,
        focus=focus,
        shape=shape,
        parts=parts,
        events=events // emitters,
        burst=chance.choice((20, 100, 500, 1_500)),
        outbox=chance.choice(OUTBOXES) if focus == "all" else max(OUTBOXES),
        lasts_ms=lasts_ms,
        faults=tuple(faults),
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _plane(seed: int, events: int) -> Plan:
    """Under the real control plane: its parts have faults too, and commands are given."""
    chance = random.Random(f"{seed}/plane")
    services = chance.choice(("one", "apart"))
    shape = chance.choice(sorted(_SHAPES))
    parts = _SHAPES[shape](chance)
    lasts_ms = chance.randrange(3_500, 5_000)
    own = chance.sample(_SERVICE_FAULTS[services], chance.randrange(1, 3))
    kinds: list[FaultKind] = chance.sample(
        ("kill", "pause", "restart", "scale", "change", "join", "leave"), chance.randrange(1, 4)
    )
    faults = [
        Fault(at_ms=chance.randrange(lasts_ms), kind=kind, component=service, for_ms=chance.randrange(200, 1_500))
        for kind, service in own
    ]
    for kind in kinds:
        if kind in {"join", "leave"}:
            stem = chance.choice([part for part in parts if part.kind != "sink"])
            extra = msgspec.structs.replace(_sink(chance, f"x-{kind}", stem.name), stays=False)
            parts = (*parts, extra)
            faults.append(Fault(at_ms=chance.randrange(500, lasts_ms), kind=kind, component=extra.name))
            continue
        fault = _fault(
            chance, kind, tuple(part for part in parts if part.stays and (kind != "change" or part.kind == "sink")), lasts_ms
        )
        if fault is not None:
            faults.append(fault)
    emitters = sum(part.replicas for part in parts if part.kind == "source")
    return Plan(
        seed=seed,
        focus="plane",
        shape=shape,
        parts=parts,
        events=events // emitters,
        burst=chance.choice((20, 100, 500)),
        outbox=chance.choice(OUTBOXES),
        lasts_ms=lasts_ms,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_ms)),
        services=services,
    )


# -- graphs ------------------------------------------------------------------------------------------------------------


def _source(name: str, replicas: int = 1) -> Part:
    return Part(name=name, kind="source", program="numbered", replicas=replicas)


def _processor(chance: random.Random, name: str, *inputs: str, replicas: int = 1, partition_by: str = "") -> Part:
    return _part(chance, name, inputs, chance.choice(_PROCESSORS), replicas=replicas, partition_by=partition_by)


def _last(chance: random.Random, name: str, *inputs: str, replicas: int = 1, partition_by: str = "") -> Part:
    """A processor that only sinks follow; it may have windows, whose outputs speak of several events."""
    return _part(chance, name, inputs, chance.choice(_LAST_PROCESSORS), replicas=replicas, partition_by=partition_by)


def _part(
    chance: random.Random, name: str, inputs: tuple[str, ...], program: str, *, replicas: int = 1, partition_by: str = ""
) -> Part:
    window = chance.choice((7, 50, 200)) if program == "windowed" else 0
    return Part(
        name=name, kind="processor", program=program, inputs=inputs, replicas=replicas, partition_by=partition_by, window=window
    )


def _sink(chance: random.Random, name: str, *inputs: str, replicas: int = 1, partition_by: str = "", drops: bool = False) -> Part:
    pause_ms = chance.choice((60, 120) if drops else (0, 0, 2, 10, 40))
    return Part(
        name=name,
        kind="sink",
        program="store",
        inputs=inputs,
        replicas=replicas,
        partition_by=partition_by,
        pause_ms=pause_ms,
        drops=drops,
    )


def _line(chance: random.Random, length: int) -> tuple[Part, ...]:
    names = ["s", *(f"p{n}" for n in range(length))]
    processors = [
        (_last if after == names[-1] else _processor)(chance, after, before) for before, after in itertools.pairwise(names)
    ]
    last = processors[-1].name if processors else "s"
    return (_source("s"), *processors, _sink(chance, "k", last))


def _fan_out(chance: random.Random) -> tuple[Part, ...]:
    return (_source("s"), _last(chance, "p", "s"), _sink(chance, "k0", "p"), _sink(chance, "k1", "p"))


def _lossy(chance: random.Random) -> tuple[Part, ...]:
    """One sink gets everything, the other what it is fast enough for."""
    before = chance.choice(("s", "p"))
    processors = (_processor(chance, "p", "s"),) if before == "p" else ()
    replicas = chance.choice((1, 1, 2))
    slow = _sink(chance, "k1", before, replicas=replicas, partition_by="payload.k" if replicas > 1 else "", drops=True)
    return (_source("s"), *processors, _sink(chance, "k0", before), slow)


def _fan_in(chance: random.Random) -> tuple[Part, ...]:
    return (_source("s0"), _source("s1"), _last(chance, "p", "s0", "s1"), _sink(chance, "k", "p"))


def _diamond(chance: random.Random) -> tuple[Part, ...]:
    return (_source("s"), _last(chance, "p0", "s"), _last(chance, "p1", "s"), _sink(chance, "k", "p0", "p1"))


def _net(chance: random.Random) -> tuple[Part, ...]:
    return (
        _source("s0"),
        _source("s1"),
        _last(chance, "p", "s0", "s1"),
        _sink(chance, "k0", "p"),
        _sink(chance, "k1", "p", "s1"),
    )


def _replicas(chance: random.Random) -> tuple[Part, ...]:
    count = chance.choice((2, 3))
    by = chance.choice(("payload.k", "payload.k", "metadata.k", ""))
    return (_source("s"), _last(chance, "p", "s", replicas=count, partition_by=by), _sink(chance, "k", "p"))


def _sink_replicas(chance: random.Random) -> tuple[Part, ...]:
    by = chance.choice(("payload.k", "metadata.k", ""))
    return (_source("s", chance.choice((1, 2))), _sink(chance, "k", "s", replicas=2, partition_by=by))


def _by_key(chance: random.Random) -> tuple[Part, ...]:
    return (
        _source("s"),
        _processor(chance, "p", "s", replicas=2, partition_by="payload.k"),
        _sink(chance, "k", "p", replicas=2, partition_by="payload.k"),
    )


def _direct(chance: random.Random) -> tuple[Part, ...]:
    return _line(chance, 0)


def _linear(chance: random.Random) -> tuple[Part, ...]:
    return _line(chance, 1)


def _chain(chance: random.Random) -> tuple[Part, ...]:
    return _line(chance, 2)


_SHAPES: Final[dict[str, Callable[[random.Random], tuple[Part, ...]]]] = {
    "direct": _direct,
    "linear": _linear,
    "chain": _chain,
    "fan_out": _fan_out,
    "fan_in": _fan_in,
    "diamond": _diamond,
    "net": _net,
    "replicas": _replicas,
    "sink_replicas": _sink_replicas,
    "by_key": _by_key,
    "lossy": _lossy,
}

# -- faults ------------------------------------------------------------------------------------------------------------


_EVERYWHERE: Final[tuple[tuple[FaultKind, str], ...]] = (
    ("kill", "@nats-server"),
    ("pause", "@nats-server"),
    ("reset", "@registry"),
    ("drop", "@registry"),
)
_SERVICE_FAULTS: Final[dict[str, tuple[tuple[FaultKind, str], ...]]] = {
    "one": (*_EVERYWHERE, ("kill", "@server"), ("kill", "@server"), ("pause", "@server")),
    "apart": (
        *_EVERYWHERE,
        *(("kill", f"@{service}") for service in ("registry", "health", "orchestrator", "agent", "agent")),
        *(("pause", f"@{service}") for service in ("registry", "health", "orchestrator", "agent")),
        *((kind, "@journal") for kind in ("reset", "drop", "delay")),
    ),
}
"""What may happen to the control plane: ``@registry`` and ``@journal`` also stand for the ways to them."""


def _any(chance: random.Random, parts: tuple[Part, ...], lasts_ms: int) -> list[Fault]:
    kinds: tuple[FaultKind, ...] = (
        *("kill", "kill", "kill", "pause", "graceful", "zombie", "zombie"),
        *("reset", "drop", "delay", "half_open", "scale", "scale", "registry"),
    )
    if chance.random() < 0.3:
        kinds = tuple(kind for kind in kinds if kind not in ABRUPT)
    faults = [_fault(chance, chance.choice(kinds), parts, lasts_ms) for _ in range(chance.randrange(1, 5))]
    return [fault for fault in faults if fault is not None]


def _fault(chance: random.Random, kind: FaultKind, parts: tuple[Part, ...], lasts_ms: int) -> Fault | None:
    at_ms = chance.randrange(lasts_ms)
    for_ms = chance.randrange(0, 600)
    if kind == "registry":
        return Fault(at_ms=at_ms, kind=kind, component="", for_ms=for_ms)
    if kind in CUTS:
        part = chance.choice([part for part in parts if part.kind != "sink"])
        side = chance.choice(("dialling", "serving")) if kind == "half_open" else ""
        return Fault(at_ms=at_ms, kind=kind, component=part.name, index=chance.randrange(part.replicas), for_ms=for_ms, side=side)
    if kind == "scale":
        movable = [part for part in parts if part.kind != "source" and (part.replicas > 1 or chance.random() < 0.5)]
        if not movable:
            return None
        part = chance.choice(movable)
        wanted = chance.choice([count for count in (1, 2, 3) if count != part.replicas])
        return Fault(at_ms=at_ms, kind=kind, component=part.name, replicas=wanted)
    part = chance.choice(parts)
    return Fault(at_ms=at_ms, kind=kind, component=part.name, index=chance.randrange(part.replicas), for_ms=for_ms)


def _kills(chance: random.Random, parts: tuple[Part, ...], lasts_ms: int) -> list[Fault]:
    """The sink stands still, so that events wait at the processor when it is killed."""
    del parts
    at_ms = chance.randrange(100, 300)
    return [
        Fault(at_ms=at_ms, kind="pause", component="k", for_ms=lasts_ms),
        Fault(at_ms=at_ms + chance.randrange(300, 600), kind="kill", component="p0", for_ms=50),
    ]


def _backlog(chance: random.Random, parts: tuple[Part, ...], lasts_ms: int) -> list[Fault]:
    """The processor stands still, so that events wait at the source when it is killed."""
    del parts
    at_ms = chance.randrange(100, 300)
    return [
        Fault(at_ms=at_ms, kind="pause", component="p0", for_ms=lasts_ms),
        Fault(at_ms=at_ms + chance.randrange(300, 600), kind="kill", component="s", for_ms=50),
    ]


def _zombies(chance: random.Random, parts: tuple[Part, ...], lasts_ms: int) -> list[Fault]:
    """A sink is replaced early, and the old one wakes up while events still come."""
    del parts
    return [
        Fault(at_ms=chance.randrange(200, 400), kind="zombie", component="k", for_ms=chance.randrange(100, 300)),
        Fault(at_ms=lasts_ms, kind="pause", component="p0", for_ms=1),
    ]


_FOCUSED: Final = {"all": _any, "kill": _kills, "backlog": _backlog, "zombie": _zombies}
