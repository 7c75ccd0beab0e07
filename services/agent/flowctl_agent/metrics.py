"""The agent's Prometheus metrics, each named once."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class AgentMetrics:
    """What the agent counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.instances = Gauge("flowctl_agent_instances", "Runs that live on this host", registry=registry)
        self.starts = Counter("flowctl_agent_starts_total", "Programs started", registry=registry)
        self.restarts = Counter("flowctl_agent_restarts_total", "Restarts decided after an unwanted exit", registry=registry)
        self.failures = Counter("flowctl_agent_failures_total", "Assignments given up", registry=registry)
        self.exits = Counter("flowctl_agent_exits_total", "Exits told to the journal", ["expected"], registry=registry)
        self.start_seconds = Histogram(
            "flowctl_agent_start_seconds",
            "From the claim of an incarnation to its program's start",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=registry,
        )
        self.log_lines = Counter("flowctl_agent_log_lines_total", "Lines of output sent to the log stream", registry=registry)
        self.log_lost_bytes = Counter(
            "flowctl_agent_log_lost_bytes_total",
            "Bytes of output rotated away before they were sent",
            registry=registry,
        )
        self.probe_failures = Counter("flowctl_agent_probe_failures_total", "Health checks that failed", registry=registry)
        self.errors = Counter("flowctl_agent_errors_total", "Actions that failed and are tried again", registry=registry)
