"""Who is still there when a pipeline ends or a host is drained: only what somebody can see, and only what is really on it."""

from flowctl.api import HostView, InstanceView, PipelineView, StatusView
from flowctl_cli.commands.down import lost_hosts, still_there
from flowctl_cli.commands.hosts import _left_on  # pyright: ignore[reportPrivateUsage] - what `hosts drain` waits for


def instance(name: str, phase: str, *, host: str = "", runs_on: str = "") -> InstanceView:
    """An instance of the pipeline ``p``."""
    return InstanceView(
        instance=name, component="b", index=0, kind="processor", phase=phase, status="unknown", host=host, runs_on=runs_on
    )


def status(*instances: InstanceView) -> StatusView:
    """One failed pipeline, on a host that is up and one that is lost."""
    pipeline = PipelineView(name="p", status="failed", revision=1, run=1, since_ms=1, submitted_ms=1, instances=list(instances))
    hosts = [HostView(name="h1", status="up"), HostView(name="h2", status="lost")]
    return StatusView(seq=1, time_ms=1, pipelines=[pipeline], hosts=hosts)


def test_nobody_waits_for_a_host_that_is_lost():
    """Neither `up` nor `down`: it may be gone for good, and ends what is not its own when it comes back."""
    view = status(instance("p.a.0", "stopping", host="h1", runs_on="h1"), instance("p.b.0", "stopping", host="h2", runs_on="h2"))
    assert lost_hosts(view) == {"h2"}
    assert [line.split()[0] for line in still_there(view.pipelines[0], lost_hosts(view))] == ["p.a.0"]
    assert len(still_there(view.pipelines[0])) == 2


def test_a_drained_host_is_left_by_who_only_was_there():
    """An instance that waits for another host is not on this one, whatever it ran on last; one that still runs there is."""
    view = status(
        instance("p.a.0", "waiting", host="h1"),
        instance("p.b.0", "waiting", host="h3", runs_on="h1"),
        instance("p.c.0", "running", host="h1", runs_on="h1"),
    )
    assert set(_left_on(view, "h1")) == {"p.b.0", "p.c.0"}
