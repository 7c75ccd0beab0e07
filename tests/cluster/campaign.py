"""Random faults on three hosts under load, one schedule after the other, and what was measured of them."""

import datetime as dt
import os
import platform
import time
from collections.abc import Callable

import msgspec

from cluster.faults import LEADER, Fault, Load, begin, inflict, met, schedule, sit, undo
from cluster.parts import Cluster
from cluster.registrars import Registrars
from cluster.truth import Settled, settled, writes
from support.flowctl import until

FAULTS = 2
RATE = 100


class Played(msgspec.Struct, frozen=True):
    """One schedule: its faults, and how each heal went."""

    seed: int
    together: bool
    faults: list[str]
    kinds: list[str]
    healed: list[Settled]


class Led(msgspec.Struct, frozen=True):
    """The journal's leader was killed or held up: after how many seconds a new client could write, and a program register."""

    kind: str
    writable_s: float
    registered_s: float


class Campaign(msgspec.Struct, frozen=True):
    """Several schedules on one cluster, what arrived in the end, and what broke the promise, if anything did."""

    played: list[Played]
    led: list[Led]
    events: int
    again: int
    registrations: int
    lasted_s: float
    date: str
    machine: str
    failed: str = ""
    failed_seed: int = 0


def play(running: Cluster, seed: int, schedules: int, *, say: Callable[[str], None]) -> Campaign:
    """The schedules of ``schedules`` seeds, beginning with ``seed``; stops at the first that breaks a promise."""
    begun = time.monotonic()
    load = Load(running, rate=RATE)
    load.begin()
    registrars = Registrars(running)
    played: list[Played] = []
    led: list[Led] = []
    failed, number = "", seed
    numbers: list[int] = []
    try:
        for number in range(seed, seed + schedules):
            each = schedule(number, [place.name for place in running.network.places], count=FAULTS)
            say(f"seed {number}: {each}")
            if each.together:
                inflict(running, *each.faults)
                healed = [settled(running, load)]
            else:
                healed = list[Settled]()
                for fault in each.faults:
                    if fault.host == LEADER:
                        led.append(_lead_lost(running, fault, registrars))
                    else:
                        inflict(running, fault)
                    healed.append(settled(running, load))
            _nothing_lost(registrars)
            kinds = [_kind(fault) for fault in each.faults]
            played.append(Played(number, each.together, [str(fault) for fault in each.faults], kinds, healed))
            say(f"  right after {', '.join(f'{one.right_s:.1f} s ({one.wrong})' for one in healed)}")
        registrars.end()
        _nothing_lost(registrars)
        numbers = load.end()
    except AssertionError as error:
        registrars.end()
        failed = str(error)
    return Campaign(
        played=played,
        led=led,
        events=len(set(numbers)),
        again=len(numbers) - len(set(numbers)),
        registrations=registrars.total(),
        lasted_s=round(time.monotonic() - begun, 1),
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        failed=failed,
        failed_seed=number if failed else 0,
    )


def _lead_lost(running: Cluster, fault: Fault, registrars: Registrars) -> Led:
    """Take the journal's leader away, and give it back only when another one leads."""
    happening = met(running, fault)
    begin(running, happening)
    begun = time.monotonic()
    try:
        until(lambda: writes(running), "a write to the journal", timeout_s=60, every_s=0.1)
        writable_s = time.monotonic() - begun
        registered_s = until(lambda: registrars.first_after(begun), "a registration", timeout_s=60, every_s=0.1)
        sit(max(0.0, fault.seconds - (time.monotonic() - begun)))
    finally:
        undo(running, happening)
    return Led(fault.kind, round(writable_s, 2), round(registered_s, 2))


def _nothing_lost(registrars: Registrars) -> None:
    lost = registrars.lost()
    assert not lost, f"{len(lost)} acknowledged registrations are lost, the first is {lost[0]}"


def _kind(fault: Fault) -> str:
    if fault.kind in ("cut", "power"):
        return fault.kind
    return f"{fault.kind} {'leading nats' if fault.host == LEADER else fault.part}"
