"""What the agent is to do now: desired (the fleet) against actual (the driver's runs). Pure; leaves no choices to execution.

Every action is idempotent: what was done is seen in the fleet or in the runs, and is not planned again. Stops come before
starts, and whatever waits says for what. The decisions that go into the journal are made here too, on the newest fold.
"""

import hashlib
import signal
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from flowctl.decision import Decision
from flowctl.fleet import Assignment, Fleet, Host, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentExited, ComponentFailed, ComponentStarted, ComponentStarting
from flowctl.journal.log import Draft
from flowctl.spec.model import Backoff, Driver
from flowctl_agent.drivers import Run, RunKey

EXIT_BAD_CONFIG: Final = 2
JITTER: Final = 0.2
"""A delay is at most this part shorter or longer, so that what crashed together does not start together."""
STABLE_S: Final = 10.0
"""Whoever ran this long begins the back-off anew."""
LOOK_AGAIN_S: Final = 5.0
"""How often it is looked whether another host has ended what is to move here; usually the journal tells."""
HURRY_S: Final = 2.0
"""A program that is not worth draining has this long to end, if its own time is not shorter."""
REASON_LINES: Final = 3
"""So many of a program's last words are in the reason of a failure; the exit itself has them all."""

_S: Final = 1_000_000_000


class Stop(msgspec.Struct, frozen=True):
    """End a run: gracefully, by force after ``timeout_s``."""

    key: RunKey
    timeout_s: float
    reason: str


class Start(msgspec.Struct, frozen=True):
    """Claim the next incarnation for this assignment, and start it."""

    instance: InstanceId
    assignment: int


class ReportStart(msgspec.Struct, frozen=True):
    """Tell the journal that a claimed incarnation runs, and under which handle."""

    run: Run


class ReportExit(msgspec.Struct, frozen=True):
    """Tell the journal how a run ended, and whether it is restarted or has failed."""

    run: Run


class Fail(msgspec.Struct, frozen=True):
    """Give the assignment up."""

    instance: InstanceId
    assignment: int
    reason: str


class Forget(msgspec.Struct, frozen=True):
    """The journal knows all about this exited run."""

    key: RunKey


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before ``until_ns`` (journal time), because of ``reason``."""

    instance: InstanceId
    reason: str
    until_ns: int


Action = Stop | Start | ReportStart | ReportExit | Fail | Forget | Wait


def plan(fleet: Fleet, host: str, runs: Sequence[Run], now_ns: int, drivers: frozenset[Driver]) -> list[Action]:
    """What is to be done on this host? Actions of different instances may go on at once, those of one in this order."""
    by_instance: dict[InstanceId, list[Run]] = {}
    for run in runs:
        by_instance.setdefault(run.key.instance, []).append(run)
    concerned = {instance.id for instance in fleet.instances.values() if concerns(instance, host)} | by_instance.keys()
    return [
        action
        for instance in sorted(concerned)
        for action in plan_instance(
            instance,
            fleet.instances.get(instance),
            host,
            by_instance.get(instance, []),
            now_ns,
            drivers=drivers,
            hosts=fleet.hosts,
        )
    ]


def concerns(instance: Instance, host: str) -> bool:
    """Whether the host has, or may have, anything to do with the instance."""
    return (instance.assignment is not None and instance.assignment.host == host) or instance.run_host == host


def plan_instance(
    instance_id: InstanceId,
    instance: Instance | None,
    host: str,
    runs: Sequence[Run],
    now_ns: int,
    *,
    drivers: frozenset[Driver],
    hosts: Mapping[str, Host],
) -> list[Action]:
    """What is to be done about one instance, given all its runs on this host?"""
    if instance is not None and (unread := _unread(instance, runs, now_ns)) is not None:
        return [unread]
    actions: list[Action] = []
    waits: list[Action] = []
    for run in runs:
        if not run.live:
            unreported = instance is not None and instance.active and is_latest(instance, host, run)
            actions.append(ReportExit(run) if unreported else Forget(run.key))
    if instance is not None and (lost := _lost_run(instance, host, runs)) is not None:
        actions.append(ReportExit(lost))
    for run in runs:
        if run.live:
            match _ending(instance, host, run, now_ns):
                case str() as reason:
                    actions.append(Stop(run.key, _patience_s(instance, run), reason))
                case Wait() as wait:
                    waits.append(wait)
                case None:
                    ...
            if instance is not None and _unknown_start(instance, host, run):
                actions.append(ReportStart(run))
    if actions or instance is None:
        return actions
    if any(run.live for run in runs):
        return waits
    start = _starting(instance_id, instance, host, now_ns, drivers=drivers, hosts=hosts)
    return [] if start is None else [start]


def _unread(instance: Instance, runs: Sequence[Run], now_ns: int) -> Wait | None:
    """A run whose claim was not read yet (nothing starts without one): what is wanted of it is not known."""
    newest = max((run.key.incarnation for run in runs), default=0)
    wait = Wait(instance.id, f"the journal to be read up to incarnation {newest}", now_ns + int(LOOK_AGAIN_S * _S))
    return wait if newest > instance.incarnation else None


def _patience_s(instance: Instance | None, run: Run) -> float:
    """How long may the program take to end?"""
    if instance is not None and instance.assignment is None and not instance.drain:
        return min(run.stop_timeout_s, HURRY_S)
    return run.stop_timeout_s


def is_latest(instance: Instance, host: str, run: Run) -> bool:
    """Whether a run is the incarnation that the journal speaks of."""
    return run.key.incarnation == instance.incarnation and run.assignment == instance.run_assignment and instance.run_host == host


def _lost_run(instance: Instance, host: str, runs: Sequence[Run]) -> Run | None:
    """The incarnation that the journal believes to be here, if the driver knows nothing of it."""
    if not instance.active or instance.run_host != host or any(is_latest(instance, host, run) for run in runs):
        return None
    return Run(key=RunKey(instance.id, instance.incarnation), assignment=instance.run_assignment, state="exited")


def _ending(instance: Instance | None, host: str, run: Run, now_ns: int) -> str | Wait | None:
    """Why is a live run to be stopped? A ``Wait`` if it may be about to end by itself, None if it is to go on."""
    if instance is None:
        return "the journal does not know it"
    if not is_latest(instance, host, run):
        return f"incarnation {instance.incarnation} has taken over"
    if not instance.active:
        return "the journal has seen it end"
    if instance.completed or instance.run == "ending":
        until_ns = instance.since_ns + int(run.stop_timeout_s * _S)
        what = "it has completed" if instance.completed else "it has said good-bye"
        if now_ns < until_ns:
            return Wait(instance.id, f"the program to exit, since {what}", until_ns)
        return f"{what} and did not exit within {run.stop_timeout_s:g} s"
    assignment = instance.assignment
    if assignment is None:
        return "it is not assigned to any host"
    if assignment.host != host:
        return f"it is assigned to host {assignment.host}"
    if assignment.seq != run.assignment:
        return f"assignment {assignment.seq} replaces it" + (f": {assignment.reason}" if assignment.reason else "")
    if instance.failure is not None:
        return f"it has failed: {instance.failure.reason}"
    check, probe = assignment.component.health_check, instance.probe
    if check is not None and check.on_unhealthy == "restart" and probe is not None and not probe.healthy:
        return f"its health check fails: {probe.detail}"
    return None


def _starting(
    instance_id: InstanceId,
    instance: Instance,
    host: str,
    now_ns: int,
    *,
    drivers: frozenset[Driver],
    hosts: Mapping[str, Host],
) -> Start | Fail | Wait | None:
    """Is the instance, of which nothing lives here, to be started now?

    What runs on another host is ended there first, as long as there is an agent to do so; the fence alone keeps a program that
    nobody can end from counting.
    """
    assignment = instance.assignment
    if assignment is None or not instance.wanted or assignment.host != host:
        return None
    if assignment.driver not in drivers:
        return Fail(instance_id, assignment.seq, f"host {host} does not offer the driver {assignment.driver}")
    elsewhere = hosts.get(instance.run_host) if instance.active and instance.run_host != host else None
    if elsewhere is not None and elsewhere.status == "up":
        reason = f"incarnation {instance.incarnation} on host {elsewhere.name} to end first"
        return Wait(instance_id, reason, now_ns + int(LOOK_AGAIN_S * _S))
    last = instance.last_exit
    if instance.run == "exited" and instance.current and last is not None and last.restart_in_s is not None:
        due_ns = instance.last_exit_ns + int(last.restart_in_s * _S)
        if now_ns < due_ns:
            left_s = (due_ns - now_ns) / _S
            return Wait(instance_id, f"restart in {left_s:.1f} s after {ending_of(last.code, last.signal)}", due_ns)
    return Start(instance_id, assignment.seq)


# --- what goes into the journal --------------------------------------------------------------------------------------------


def claim(fleet: Fleet, host: str, start: Start, now_ns: int, drivers: frozenset[Driver]) -> Decision:
    """May the next incarnation be started? Claims its number; nothing if it is not wanted (or not yet) any more."""
    instance = fleet.instances.get(start.instance)
    if instance is None or _starting(start.instance, instance, host, now_ns, drivers=drivers, hosts=fleet.hosts) != start:
        return []
    if instance.active and instance.run_host == host:
        return []
    event = ComponentStarting(host=host, incarnation=instance.incarnation + 1, assignment=start.assignment)
    again = instance.run == "exited" and instance.current
    return [Draft(Aggregate.of_instance(start.instance), event, instance.last_exit_seq if again else start.assignment)]


def started(fleet: Fleet, host: str, run: Run) -> Decision:
    """The driver has started the run: nothing if that, or something newer, is known of the instance."""
    instance = fleet.instances.get(run.key.instance)
    if instance is None or not _unknown_start(instance, host, run):
        return []
    event = ComponentStarted(host=host, incarnation=run.key.incarnation, handle=run.handle)
    return [Draft(Aggregate.of_instance(run.key.instance), event, run.assignment)]


def _unknown_start(instance: Instance, host: str, run: Run) -> bool:
    return instance.active and not instance.handle and run.handle != "" and is_latest(instance, host, run)


def fail(fleet: Fleet, host: str, failing: Fail) -> Decision:
    """Give up: nothing if the assignment is no longer the present one."""
    instance = fleet.instances.get(failing.instance)
    if instance is None or not _assigned_here(instance, host, failing.assignment):
        return []
    event = ComponentFailed(
        host=host, assignment=failing.assignment, reason=failing.reason, restarts=len(instance.restart_times_ns)
    )
    return [Draft(Aggregate.of_instance(failing.instance), event, failing.assignment)]


def exit_of(fleet: Fleet, host: str, run: Run, now_ns: int, seed: int, *, ended_ago_s: float | None = None) -> Decision:
    """What does the journal learn of a run's end? Nothing if it knows already, or if a newer incarnation counts.

    An exit that nobody asked for is restarted after the policy's back-off or, in the same write, fails the assignment.
    ``seed`` spreads the delays; ``ended_ago_s`` is how long ago the program ended, by this host's clock.
    """
    instance = fleet.instances.get(run.key.instance)
    if instance is None or not instance.active or not is_latest(instance, host, run):
        return []
    detail = _detail(run)
    aggregate = Aggregate.of_instance(instance.id)
    assignment = instance.assignment
    if assignment is None or not _assigned_here(instance, host, run.assignment):
        expected = _exited(host, run, detail, ended_ago_s, expected=True)
        return [Draft(aggregate, expected, _cause_of_end(instance))]
    reason = _final(assignment, instance, run, now_ns)
    if reason is None:
        delay_s = restart_delay_s(assignment.component.restart.backoff, instance.restart_times_ns, now_ns, _spread(seed, run.key))
        exited = _exited(host, run, detail, ended_ago_s, restart_in_s=round(delay_s, 3))
        return [Draft(aggregate, exited, run.assignment)]
    told = [line.strip() for line in detail.splitlines() if line.strip()][-REASON_LINES:]
    words = f": {' | '.join(told)}" if told else ""
    failed = ComponentFailed(
        host=host, assignment=assignment.seq, reason=f"{reason}{words}", restarts=len(instance.restart_times_ns)
    )
    exited = _exited(host, run, detail, ended_ago_s)
    return [Draft(aggregate, exited, run.assignment), Draft(aggregate, failed, run.assignment)]


def _assigned_here(instance: Instance, host: str, assignment: int) -> bool:
    """Whether this host is still to run the instance for that assignment."""
    present = instance.assignment
    return instance.wanted and present is not None and present.host == host and present.seq == assignment


def _cause_of_end(instance: Instance) -> int:
    """The entry that asked for the end of a run."""
    if instance.completed:
        return instance.completed_seq
    if instance.assignment is not None:
        return instance.failure_seq if instance.failure is not None else instance.assignment.seq
    return instance.withdrawn_seq


def _final(assignment: Assignment, instance: Instance, run: Run, now_ns: int) -> str | None:
    """Why is there no restart? None if there is one."""
    restart = assignment.component.restart
    if run.failure:
        return "it cannot be started"
    ending = ending_of(run.code, run.signal)
    if run.code == EXIT_BAD_CONFIG:
        return f"it refused its configuration ({ending})"
    if restart.policy == "never":
        return f"it ended with {ending} and its restart policy is never"
    recent = [at_ns for at_ns in instance.restart_times_ns if at_ns > now_ns - int(restart.window_s * _S)]
    if len(recent) >= restart.max_attempts:
        times = f"{len(recent)} restart" + ("" if len(recent) == 1 else "s")
        return f"it ended with {ending}, and its restart policy is spent ({times} within {restart.window_s:g} s)"
    return None


def restart_delay_s(backoff: Backoff, restarts_ns: Sequence[int], exit_ns: int, jitter: float) -> float:
    """How long until the next restart? Grows with every restart that did not last. ``jitter`` is in [0, 1)."""
    attempt = 0
    for began_ns, ended_ns in pairwise([*restarts_ns, exit_ns]):
        attempt += 1
        waited_s = 0.0 if ended_ns == exit_ns else _nominal_delay_s(backoff, attempt) * (1 + JITTER)
        if (ended_ns - began_ns) / _S - waited_s >= STABLE_S:
            attempt = 0
    return _nominal_delay_s(backoff, attempt) * (1 - JITTER + 2 * JITTER * jitter)


def _nominal_delay_s(backoff: Backoff, attempt: int) -> float:
    delay_s = backoff.initial_s
    for _ in range(attempt):
        if delay_s == 0 or delay_s >= backoff.max_s or backoff.multiplier == 1:
            break
        delay_s *= backoff.multiplier
    return min(delay_s, backoff.max_s)


def _spread(seed: int, key: RunKey) -> float:
    """A number in [0, 1) that differs from run to run."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _exited(
    host: str, run: Run, detail: str, ago_s: float | None, *, expected: bool = False, restart_in_s: float | None = None
) -> ComponentExited:
    return ComponentExited(
        host=host,
        incarnation=run.key.incarnation,
        assignment=run.assignment,
        code=run.code,
        signal=run.signal,
        detail=detail,
        expected=expected,
        restart_in_s=restart_in_s,
        ended_ago_s=ago_s,
    )


def _detail(run: Run) -> str:
    if run.failure:
        return run.failure
    words = "\n".join([*([run.cause] if run.cause else []), *run.last_words])
    unseen = run.code is None and run.signal is None
    return words or "nobody saw how it ended" if unseen else "" if run.code == 0 else words


def ending_of(code: int | None, number: int | None) -> str:
    """How a program ended, in words: ``exit code 1``, ``signal 9 (SIGKILL)``."""
    if number is not None:
        try:
            return f"signal {number} ({signal.Signals(number).name})"
        except ValueError:
            return f"signal {number}"
    return f"exit code {code}" if code is not None else "an end that nobody saw"
