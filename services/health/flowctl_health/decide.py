"""What is the health of an instance or a host, is that news, and when will it have to be asked again? Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

from flowctl.fleet import Fleet, Host, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentStatusChanged, HostLost, HostRecovered, Status
from flowctl.journal.log import Draft
from flowctl_health.observed import Observed

SILENT: Final = "no heartbeat"
PROBE_FAILS: Final = "the probe fails"
BACK: Final = "heartbeats are back"

Subject = InstanceId | str
"""Who is judged: an instance, or a host by its name."""


class Patience(msgspec.Struct, frozen=True):
    """How many seconds of silence are too many, for an instance and for a host."""

    instance_s: float
    host_s: float

    @classmethod
    def of(cls, silence_s: float, host_silence_s: float | None = None) -> "Patience":
        """The same for both, unless hosts have their own."""
        return cls(silence_s, silence_s if host_silence_s is None else host_silence_s)

    @property
    def instance_ns(self) -> int:
        """Nanoseconds."""
        return round(self.instance_s * 1e9)

    @property
    def host_ns(self) -> int:
        """Nanoseconds."""
        return round(self.host_s * 1e9)


def judge(observed: Observed, fleet: Fleet, subjects: Iterable[Subject], patience: Patience) -> list[Draft]:
    """Whose state has changed? At most one draft for each subject, none for whom the journal has it right."""
    drafts: list[Draft] = []
    for subject in subjects:
        if isinstance(subject, InstanceId):
            instance = fleet.instances.get(subject)
            draft = _judge_instance(observed, instance, patience.instance_ns) if instance is not None else None
        else:
            host = fleet.hosts.get(subject)
            draft = _judge_host(observed, host, patience.host_ns) if host is not None else None
        if draft is not None:
            drafts.append(draft)
    return drafts


def deadline_ns(observed: Observed, fleet: Fleet, subject: Subject, patience: Patience) -> int | None:
    """Until when may the subject stay silent, Unix nanoseconds? None if its silence is not waited for."""
    if isinstance(subject, InstanceId):
        instance = fleet.instances.get(subject)
        if instance is None or not judged(instance) or _is_unhealthy(instance, SILENT):
            return None
        return max(_heard_ns(observed, instance), observed.registry.begin_ns) + patience.instance_ns
    host = fleet.hosts.get(subject)
    if host is None or host.status != "up":
        return None
    return max(_host_heard_ns(observed, host), observed.stream.begin_ns) + patience.host_ns


def judged(instance: Instance) -> bool:
    """Whether the instance's health is anybody's business: it has registered, and has neither deregistered nor exited."""
    return instance.run == "running" and instance.registration is not None


def _judge_instance(observed: Observed, instance: Instance, silence_ns: int) -> Draft | None:
    if not judged(instance):
        return None
    heard_ns = _heard_ns(observed, instance)
    beat_ns = observed.heard_ns(instance.id, instance.incarnation)
    window = observed.registry
    silent_ns = window.last_ns - max(heard_ns, window.since_ns) if window.since_ns else 0
    if silent_ns > silence_ns:
        return _unhealthy(instance, SILENT, f"{SILENT} for {silent_ns / 1e9:.1f} s", silence_ns=silent_ns, beat_ns=beat_ns)
    probe = instance.probe
    if probe is not None and probe.incarnation == instance.incarnation and not probe.healthy:
        if _is_unhealthy(instance, SILENT) and not _speaks(observed, heard_ns, silence_ns):
            return None
        reason = f"{PROBE_FAILS}: {probe.detail}" if probe.detail else PROBE_FAILS
        return _unhealthy(instance, PROBE_FAILS, reason, beat_ns=beat_ns, causation=instance.probe_seq)
    if instance.status == "healthy" or not _speaks(observed, heard_ns, silence_ns):
        return None
    if _is_unhealthy(instance, SILENT) and heard_ns <= instance.status_since_ns:
        return None  # another monitor, which has read more of the heartbeats, has missed it since
    reason = BACK if _is_unhealthy(instance, SILENT) else "heartbeats arrive and no probe fails"
    cause = instance.probe_seq if _is_unhealthy(instance, PROBE_FAILS) and instance.probe_seq else instance.status_seq
    return _changed(instance, "healthy", reason, beat_ns=beat_ns, causation=cause)


def _speaks(observed: Observed, heard_ns: int, silence_ns: int) -> bool:
    """Whether it was heard of late. A window that has just begun proves neither silence nor life."""
    return observed.registry.since_ns > 0 and observed.registry.last_ns - heard_ns <= silence_ns


def _heard_ns(observed: Observed, instance: Instance) -> int:
    """The last sign of life of the present incarnation; registering is one, and so is what another monitor has heard already."""
    registered_ns = instance.registration.time_ns if instance.registration is not None else 0
    back_ns = instance.status_since_ns if instance.status == "healthy" and instance.status_reason == BACK else 0
    return max(registered_ns, back_ns, observed.heard_ns(instance.id, instance.incarnation))


def _is_unhealthy(instance: Instance, cause: str) -> bool:
    return instance.status == "unhealthy" and instance.status_reason.startswith(cause)


def _unhealthy(
    instance: Instance, cause: str, reason: str, *, silence_ns: int = 0, beat_ns: int = 0, causation: int = 0
) -> Draft | None:
    if _is_unhealthy(instance, cause):
        return None
    return _changed(instance, "unhealthy", reason, silence_ns=silence_ns, beat_ns=beat_ns, causation=causation)


def _changed(
    instance: Instance, status: Status, reason: str, *, silence_ns: int = 0, beat_ns: int = 0, causation: int = 0
) -> Draft:
    event = ComponentStatusChanged(
        incarnation=instance.incarnation,
        status=status,
        previous=instance.status,
        reason=reason,
        silence_s=round(silence_ns / 1e9, 3) if silence_ns else None,
        last_heartbeat_ms=_ms(beat_ns),
    )
    return Draft(Aggregate.of_instance(instance.id), event, causation)


def _judge_host(observed: Observed, host: Host, silence_ns: int) -> Draft | None:
    beat_ns = observed.hosts.get(host.name, 0)
    window = observed.stream
    if window.since_ns == 0:
        return None
    if host.status == "up":
        silent_ns = window.last_ns - max(_host_heard_ns(observed, host), window.since_ns)
        if silent_ns <= silence_ns:
            return None
        lost = HostLost(silence_s=round(silent_ns / 1e9, 3), last_heartbeat_ms=_ms(beat_ns))
        return Draft(Aggregate.of_host(host.name), lost)
    # A monitor that has read less of the heartbeats than the one that missed the host must not take its word back.
    if host.status == "lost" and beat_ns > host.since_ns and window.last_ns - beat_ns <= silence_ns:
        return Draft(Aggregate.of_host(host.name), HostRecovered(), host.seq)
    return None


def _host_heard_ns(observed: Observed, host: Host) -> int:
    """The last sign of life of a host that is up; joining and recovering are signs too."""
    return max(host.since_ns, observed.hosts.get(host.name, 0))


def _ms(time_ns: int) -> int | None:
    return time_ns // 1_000_000 if time_ns else None
