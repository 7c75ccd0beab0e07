"""What an instance waits for, in one phrase that continues "it waits for …". Pure; for people, never for a decision."""

from flowctl.fleet import Fleet, Instance
from flowctl.journal.events import ComponentExited
from flowctl_orchestrator.placement import gone, is_well

_S = 1_000_000_000


def waiting_for(fleet: Fleet, instance: Instance, now_ns: int) -> str:
    """What an assigned instance waits for; empty if for nothing."""
    assignment = instance.assignment
    if assignment is None or instance.completed or instance.failure is not None or is_well(instance):
        return ""
    away = _absent(fleet, assignment.host)
    if away:
        return away
    match instance.phase:
        case "assigned":
            return f"host {assignment.host} to start it"
        case "replacing":
            if instance.run_host != assignment.host and gone(fleet.hosts, instance.run_host):
                return f"host {assignment.host} to start it in place of the one on {instance.run_host or 'an unknown host'}"
            return f"incarnation {instance.incarnation} on host {instance.run_host or 'unknown'} to end first"
        case "starting":
            return f"the {assignment.driver} driver of host {assignment.host} to start it"
        case "started":
            return f"the program to register ({_seconds(now_ns - instance.since_ns)} s since start)"
        case "running":
            return f"the program to be healthy again ({instance.status}: {instance.status_reason})"
        case "stopping":
            return f"the program to exit ({instance.status_reason})"
        case "restarting":
            return _restart(instance, now_ns)
        case _:
            return ""


def waiting_to_end(fleet: Fleet, instance: Instance, now_ns: int) -> str:
    """What an instance that was told to end waits for."""
    if not instance.active:
        return ""
    away = _absent(fleet, instance.run_host)
    if away:
        return f"{away}, to end it"
    return f"the program to end ({_seconds(now_ns - instance.since_ns)} s since it was told to)"


def exit_text(event: ComponentExited) -> str:
    """How a program ended: ``exit code 1``, ``signal 9``."""
    if event.signal is not None:
        return f"signal {event.signal}"
    if event.code is not None:
        return f"exit code {event.code}"
    return event.detail or "an exit that nobody saw"


def _restart(instance: Instance, now_ns: int) -> str:
    last, host = instance.last_exit, instance.assignment.host if instance.assignment is not None else ""
    if last is None:
        return f"host {host} to restart it"
    left_ns = instance.last_exit_ns + int((last.restart_in_s or 0) * _S) - now_ns
    if left_ns > 0:
        return f"restart in {left_ns / _S:.1f} s after {exit_text(last)}"
    return f"host {host} to restart it after {exit_text(last)}"


def _absent(fleet: Fleet, name: str) -> str:
    host = fleet.hosts.get(name)
    if host is None:
        return f"host {name or 'unknown'} to join"
    if host.status == "lost":
        return f"host {name} to come back ({host.reason})"
    if host.status == "left":
        return f"the agent of host {name} to come back"
    return ""


def _seconds(ns: int) -> int:
    return max(0, ns // _S)
