"""One instance as the journal tells it: what is wanted of it, and where its latest incarnation is. Pure.

``fold_instance`` is total. What an older incarnation or an older assignment says is history and changes nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.journal.events import (
    CheckpointCommitted,
    ComponentAssigned,
    ComponentDeregistered,
    ComponentEvent,
    ComponentExited,
    ComponentFailed,
    ComponentLettersRedriven,
    ComponentProbed,
    ComponentRedriveRequested,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentStatusChanged,
    ComponentUnassigned,
    JournalEvent,
    Status,
)
from flowctl.journal.log import Entry
from flowctl.spec.model import Component, Driver, Kind

RunState = Literal["none", "starting", "started", "running", "ending", "exited"]
"""Where the latest incarnation of an instance is."""

RUN_LIFECYCLE: Final[dict[RunState, dict[type[JournalEvent], RunState]]] = {
    "none": {ComponentStarting: "starting", ComponentRegistered: "running"},
    "starting": {ComponentStarted: "started", ComponentRegistered: "running", ComponentExited: "exited"},
    "started": {ComponentRegistered: "running", ComponentExited: "exited"},
    "running": {
        ComponentRegistered: "running",
        ComponentStarted: "running",
        ComponentDeregistered: "ending",
        ComponentExited: "exited",
    },
    "ending": {ComponentRegistered: "running", ComponentStarted: "ending", ComponentExited: "exited"},
    "exited": {},
}
"""State x event of the same incarnation -> state; what is not here changes nothing. A new incarnation starts at ``none``.

Only a program that nobody assigned comes back from ``ending``: it was started again by hand under the same number.
"""

Phase = Literal[
    "assigned", "starting", "started", "running", "restarting", "replacing", "stopping", "stopped", "completed", "failed"
]
"""What an operator calls the state of an instance."""

ACTIVE_RUN_STATES: Final[frozenset[RunState]] = frozenset({"starting", "started", "running", "ending"})
JUDGED_RUN_STATES: Final[frozenset[RunState]] = frozenset({"starting", "started", "running"})
"""Where a health status means something: an incarnation that has ended, or said that it ends, has none."""

RESTART_MEMORY: Final = 32


class Assignment(msgspec.Struct, frozen=True):
    """Which host is to run an instance, and what exactly. ``seq`` is the journal sequence that named it."""

    seq: int
    host: str
    kind: Kind
    driver: Driver
    revision: int
    component: Component
    reason: str = ""
    rolling: bool = False


class Checkpoint(msgspec.Struct, frozen=True):
    """Every event up to ``position`` is in every sink. ``cursor`` is the source's own words, base64."""

    position: int
    cursor: str = ""
    incarnation: int = 0


class Registration(msgspec.Struct, frozen=True):
    """What a program said of itself, and when (Unix nanoseconds by the journal)."""

    event: ComponentRegistered
    time_ns: int


class Instance(msgspec.Struct):
    """One instance: what is wanted of it (``assignment``), and where its latest incarnation is (``run``).

    ``withdrawn`` is the assignment that was taken back, until there is a new one; without ``drain`` its end waits for nothing.
    ``…_seq`` is the journal sequence of the entry that said so, ``seq`` that of the last entry of any kind. Incarnations up to
    ``run_floor`` belong to an earlier run of the pipeline.
    """

    id: InstanceId
    assignment: Assignment | None = None
    withdrawn: Assignment | None = None
    withdrawn_seq: int = 0
    drain: bool = True
    ever_assigned: bool = False
    incarnation: int = 0
    run: RunState = "none"
    run_assignment: int = 0
    run_host: str = ""
    handle: str = ""
    registration: Registration | None = None
    status: Status = "unknown"
    status_reason: str = ""
    status_since_ns: int = 0
    status_seq: int = 0
    probe: ComponentProbed | None = None
    probe_seq: int = 0
    completed: bool = False
    completed_seq: int = 0
    failure: ComponentFailed | None = None
    failure_seq: int = 0
    last_exit: ComponentExited | None = None
    last_exit_ns: int = 0
    last_exit_seq: int = 0
    restart_times_ns: list[int] = field(default_factory=list[int])
    restarts: int = 0
    checkpoint: Checkpoint | None = None
    run_floor: int = 0
    redriving: set[int] = field(default_factory=set[int])
    """The numbers of the dead letters that it is to process once more and has not settled yet."""
    redriven: set[int] = field(default_factory=set[int])
    """Those that it has delivered to every sink."""
    redrive_seq: int = 0
    since_ns: int = 0
    seq: int = 0

    @property
    def active(self) -> bool:
        """Whether an incarnation exists that has not been seen to exit."""
        return self.run in ACTIVE_RUN_STATES

    @property
    def wanted(self) -> bool:
        """Whether its host should keep it running."""
        return self.assignment is not None and not self.completed and self.failure is None

    @property
    def current(self) -> bool:
        """Whether the latest incarnation was started for the present assignment."""
        return self.assignment is not None and self.run_assignment == self.assignment.seq

    @property
    def outdated(self) -> bool:
        """Whether the latest incarnation belongs to an earlier run of the pipeline: what it does is history."""
        return 0 < self.incarnation <= self.run_floor

    @property
    def address(self) -> str:
        """Where its data plane listens, host:port; empty while it does not, and for what an earlier run has left."""
        return self.registration.event.address if self.registration and self.run == "running" and not self.outdated else ""

    @property
    def phase(self) -> Phase:
        """What an operator calls its state."""
        if self.failure is not None:
            return "failed"
        if self.completed:
            return "completed"
        if self.assignment is None:
            if not self.active:
                return "stopped"
            return "stopping" if self.ever_assigned or self.run == "ending" else "running"
        match self.run:
            case "none":
                return "assigned"
            case "exited":
                return "restarting" if self.run_assignment == self.assignment.seq else "assigned"
            case _ if self.run_assignment != self.assignment.seq:
                return "replacing"
            case "starting" | "started" | "running":
                return self.run
            case "ending":
                return "stopping"

    def begin_run(self, entry: Entry) -> None:
        """A new run of its pipeline begins with this entry: what the run before left behind is history."""
        if self.assignment is not None:
            self.withdrawn, self.withdrawn_seq, self.assignment = self.assignment, entry.seq, None
        self.completed = False
        self.failure = None
        self.checkpoint = None
        self.run_floor = self.incarnation
        self.since_ns = entry.time_ns


def fold_instance(instance: Instance, event: ComponentEvent, entry: Entry) -> None:
    """Fold one event of its aggregate into an instance."""
    instance.seq = entry.seq
    kind = type(event)
    fold = _FOLDS[kind]
    if kind in _KEEP_PHASE and instance.since_ns:
        fold(instance, event, entry)
        return
    before = instance.phase
    fold(instance, event, entry)
    if instance.phase != before or instance.since_ns == 0:
        instance.since_ns = entry.time_ns


def _assigned(instance: Instance, event: ComponentAssigned, entry: Entry) -> None:
    instance.assignment = Assignment(
        entry.seq, event.host, event.kind, event.driver, event.revision, event.component, event.reason, event.rolling
    )
    instance.withdrawn = None
    instance.drain = True
    instance.ever_assigned = True
    instance.completed = False
    instance.failure = None
    instance.restart_times_ns = []


def _unassigned(instance: Instance, event: ComponentUnassigned, entry: Entry) -> None:
    instance.drain = event.drain
    if instance.assignment is not None:
        instance.withdrawn, instance.withdrawn_seq, instance.assignment = instance.assignment, entry.seq, None


def _starting(instance: Instance, event: ComponentStarting, entry: Entry) -> None:
    if event.incarnation <= instance.incarnation:
        return
    if instance.run_assignment == event.assignment and instance.incarnation > 0:
        instance.restarts += 1
        attempts = instance.assignment.component.restart.max_attempts if instance.assignment is not None else 0
        memory = max(RESTART_MEMORY, attempts)  # else a policy of more attempts could never be spent
        instance.restart_times_ns = [*instance.restart_times_ns[-memory + 1 :], entry.time_ns]
    _new_incarnation(instance, event.incarnation)
    instance.run = "starting"
    instance.run_assignment = event.assignment
    instance.run_host = event.host
    _set_status(instance, "unknown", "starting", entry)


def _started(instance: Instance, event: ComponentStarted, entry: Entry) -> None:
    del entry
    if event.incarnation == instance.incarnation and _advance(instance, event):
        instance.handle = event.handle


def _registered(instance: Instance, event: ComponentRegistered, entry: Entry) -> None:
    if event.incarnation < max(instance.incarnation, 1):
        return
    if event.incarnation > instance.incarnation:  # started by nobody that the journal knows of
        _new_incarnation(instance, event.incarnation)
    elif instance.run == "ending" and (instance.ever_assigned or _same_boot(instance, event)):
        return  # a late repetition of a registration that was withdrawn since
    if not _advance(instance, event):
        return
    instance.registration = Registration(event, entry.time_ns)
    instance.completed = False
    _set_status(instance, "healthy", "registered", entry)


def _deregistered(instance: Instance, event: ComponentDeregistered, entry: Entry) -> None:
    if event.incarnation != instance.incarnation or not _advance(instance, event):
        return
    # what an incarnation of a replaced assignment, or of an earlier run, has completed is not what is wanted now
    if event.reason == "completed" and not instance.outdated and (instance.assignment is None or instance.current):
        instance.completed = True
        instance.completed_seq = entry.seq
    _set_status(instance, "unknown", f"deregistered: {event.reason}", entry)


def _status_changed(instance: Instance, event: ComponentStatusChanged, entry: Entry) -> None:
    if event.incarnation == instance.incarnation and instance.run in JUDGED_RUN_STATES:
        _set_status(instance, event.status, event.reason, entry)


def _probed(instance: Instance, event: ComponentProbed, entry: Entry) -> None:
    if event.incarnation == instance.incarnation:
        instance.probe, instance.probe_seq = event, entry.seq


def _exited(instance: Instance, event: ComponentExited, entry: Entry) -> None:
    if event.incarnation != instance.incarnation or not _advance(instance, event):
        return
    instance.last_exit, instance.last_exit_ns, instance.last_exit_seq = event, entry.time_ns, entry.seq
    _set_status(instance, "unknown", "exited", entry)


def _failed(instance: Instance, event: ComponentFailed, entry: Entry) -> None:
    if instance.assignment is not None and event.assignment == instance.assignment.seq:
        instance.failure = event
        instance.failure_seq = entry.seq


def _checkpoint(instance: Instance, event: CheckpointCommitted, entry: Entry) -> None:
    del entry
    if event.incarnation != instance.incarnation or event.incarnation <= instance.run_floor:
        return
    last = instance.checkpoint
    if last is None or last.incarnation != event.incarnation or event.position >= last.position:
        instance.checkpoint = Checkpoint(event.position, event.cursor, event.incarnation)


def _redrive_requested(instance: Instance, event: ComponentRedriveRequested, entry: Entry) -> None:
    instance.redrive_seq = entry.seq
    instance.redriving = instance.redriving | set(event.letters)
    instance.redriven = instance.redriven - set(event.letters)


def _letters_redriven(instance: Instance, event: ComponentLettersRedriven, entry: Entry) -> None:
    del entry
    settled = instance.redriving.intersection(event.letters)
    instance.redriving = instance.redriving - settled
    if event.outcome == "delivered":
        instance.redriven = instance.redriven | settled


_FOLDS: Final[Mapping[type[JournalEvent], Callable[[Instance, Any, Entry], None]]] = {
    ComponentAssigned: _assigned,
    ComponentUnassigned: _unassigned,
    ComponentStarting: _starting,
    ComponentStarted: _started,
    ComponentRegistered: _registered,
    ComponentDeregistered: _deregistered,
    ComponentStatusChanged: _status_changed,
    ComponentProbed: _probed,
    ComponentExited: _exited,
    ComponentFailed: _failed,
    CheckpointCommitted: _checkpoint,
    ComponentRedriveRequested: _redrive_requested,
    ComponentLettersRedriven: _letters_redriven,
}

_KEEP_PHASE: Final[frozenset[type[JournalEvent]]] = frozenset(
    {ComponentStatusChanged, ComponentProbed, CheckpointCommitted, ComponentRedriveRequested, ComponentLettersRedriven}
)
"""The frequent ones, which never change a phase: no need to look."""


def _new_incarnation(instance: Instance, incarnation: int) -> None:
    instance.incarnation = incarnation
    instance.run = "none"
    instance.run_assignment = 0
    instance.run_host = ""
    instance.handle = ""
    instance.registration = None
    instance.probe, instance.probe_seq = None, 0


def _same_boot(instance: Instance, event: ComponentRegistered) -> bool:
    return instance.registration is not None and instance.registration.event.boot_id == event.boot_id


def _advance(instance: Instance, event: ComponentEvent) -> bool:
    """Move along the lifecycle; False if the event means nothing in this state."""
    to = RUN_LIFECYCLE[instance.run].get(type(event))
    if to is None:
        return False
    instance.run = to
    return True


def _set_status(instance: Instance, status: Status, reason: str, entry: Entry) -> None:
    if status != instance.status:
        instance.status_since_ns = entry.time_ns
    instance.status, instance.status_reason, instance.status_seq = status, reason, entry.seq
