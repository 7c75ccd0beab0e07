"""Pipelines and instances as tables: what the orchestrator knows joined with what the last heartbeats say. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from flowctl import conservation
from flowctl.api import HostView, InstanceView, LiveAnswer, LiveView, PipelineView, StatusView
from flowctl_cli.terminal import Cell, Row, Style, age, columns, quantity, state

ENDED: Final = frozenset({"completed", "stopped", "failed"})
_SPAN: Final = re.compile(r" \([0-9.]+ s since [^)]*\)| in [0-9.]+ s\b")
QUIET: Final = frozenset({"completed", "stopped"})
TROUBLED: Final = frozenset({"degraded", "failed", "stopped", "unknown"})
LIVE_PHASES: Final = frozenset({"running", "starting", "started", "stopping", "replacing"})

HEAD: Final = ("INSTANCE", "PHASE", "STATUS", "FOR", "RESTARTS", "HOST", "HANDLE", "IN/s", "OUT/s", "ABOUT")
SPARED: Final = ("HANDLE", "HOST", "RESTARTS", "FOR")
"""What a narrow terminal can do without, first things first."""
ABOUT_WIDTH: Final = 30
EDGE_HEAD: Final = (
    "EDGE", "EVENTS", "RATE/s", "BYTES/s", "IN FLIGHT", "OLDEST", "P50", "P99", "LAG", "CREDIT", "RESENT", "DROPPED", "BALANCE"
)  # fmt: skip
EDGE_SPARED: Final = ("BYTES/s", "CREDIT", "P50", "LAG", "OLDEST", "RESENT", "P99", "RATE/s")
MARKS: Final[dict[conservation.Balance, tuple[str, Style]]] = {
    "balanced": ("✓", "good"),
    "open": ("✓ so far", ""),
    "violated": ("✗", "bad"),
    "unknown": ("?", "faint"),
}
"""How an edge's balance is shown: exact; right as far as can be said while it runs; wrong; not counted at both ends."""
HOST_HEAD: Final = ("HOST", "STATUS", "FOR", "ADDRESS", "DRIVERS", "INSTANCES", "LABELS", "ABOUT")


class Board(msgspec.Struct, frozen=True):
    """What there is to show. ``live`` is by instance, empty where no registry answers."""

    status: StatusView
    live: Mapping[str, LiveView]

    @classmethod
    def of(cls, status: StatusView, live: LiveAnswer | None) -> "Board":
        """Join the two answers."""
        return cls(status, {view.instance: view for view in live.instances} if live else {})


def ended(pipeline: PipelineView) -> bool:
    """Whether it will do nothing more by itself."""
    return pipeline.status in ENDED


def about(instance: InstanceView) -> str:
    """What there is to say of an instance besides its phase: why it is as it is, and what its file loosens of its container."""
    if instance.phase in QUIET:
        return ""
    loosened = f"container: {', '.join(instance.loosened)}" if instance.loosened else ""
    return "; ".join(word for word in (_state(instance), loosened) if word)


def _state(instance: InstanceView) -> str:
    """What it waits for, why it is as it is, how it last ended."""
    if instance.waiting_for and instance.phase != "failed":
        return _wait(instance.waiting_for)
    if instance.phase == "running" and instance.status == "healthy":
        return f"last exit: {instance.last_exit}" if instance.last_exit and instance.restarts else ""
    words = [instance.reason, f"last exit: {instance.last_exit}" if instance.last_exit else ""]
    return "; ".join(dict.fromkeys(word for word in words if word))


def text(board: Board, *, edges: bool, colour: bool, width: int | None) -> list[str]:
    """The whole board as lines."""
    status = board.status
    lines: list[str] = []
    if status.unknown_since_ms is not None:
        lines += [
            f"unknown since {age(status.time_ms - status.unknown_since_ms)}: the journal does not answer; what follows is older"
        ]
    for pipeline in status.pipelines:
        lines += [*([""] if lines else []), title(pipeline, status.time_ms)]
        rows = [instance_row(instance, board, status.time_ms) for instance in pipeline.instances]
        head, rows = fitting(HEAD, rows, width=width)
        lines += columns(head, rows, colour=colour, width=width) if rows else []
        if edges:
            views = pipeline_views(pipeline, board.live)
            found = [edge_row(edge) for edge in conservation.edges(views)]
            edge_head, found = fitting(EDGE_HEAD, found, width=width, spared=EDGE_SPARED)
            lines += ["", *columns(edge_head, found, colour=colour, width=width)] if found else []
            lines += [f"{each.instance}: {each.detail}" for each in conservation.violations(views) if each.edge is None]
    for count, what in ((status.unknown_entries, "unknown"), (status.quarantined_entries, "unreadable")):
        if count:
            lines += ["", f"{count} {what} journal entries were skipped; `flowctl doctor` says more"]
    return lines


def fitting(
    head: Sequence[str], rows: Sequence[Row], *, width: int | None, spared: Sequence[str] = SPARED
) -> tuple[Sequence[str], Sequence[Row]]:
    """The table without the columns that a narrow terminal has no room for; the rest of each line is for the last column."""
    for name in spared:
        lengths = [max(len(_text(row[at])) for row in [head, *rows]) + 2 for at in range(len(head) - 1)]
        wanted = max((len(_text(row[-1])) for row in rows), default=0)
        if width is None or sum(lengths) + min(wanted, ABOUT_WIDTH) <= width:
            break
        at = head.index(name)
        head = [*head[:at], *head[at + 1 :]]
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
    return head, rows


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def title(pipeline: PipelineView, now_ms: int) -> str:
    """One line about a pipeline."""
    reason = f": {pipeline.reason}" if pipeline.reason and pipeline.status not in ("running", "completed") else ""
    return f"{pipeline.name} is {pipeline.status} for {age(now_ms - pipeline.since_ms)} (revision {pipeline.revision}){reason}"


def instance_row(instance: InstanceView, board: Board, now_ms: int) -> Row:
    """One instance under ``HEAD``."""
    live = board.live.get(instance.instance) if instance.phase in LIVE_PHASES else None
    into, out = rates(live)
    return (
        instance.instance,
        state(instance.phase),
        state(instance.status) if instance.phase not in QUIET else Cell("-", "faint"),
        age(now_ms - instance.since_ms) if instance.since_ms else "",
        Cell(str(instance.restarts), "bad" if instance.restarts else "faint"),
        instance.host,
        instance.handle,
        into,
        out,
        about(instance),
    )


def rates(live: LiveView | None) -> tuple[str, str]:
    """Events a second into and out of an instance, as text; empty where there is none."""
    if live is None:
        return "", ""
    sums = {direction: [edge.rate for edge in live.edges if edge.direction == direction] for direction in ("in", "out")}
    # Every downstream gets every event, so the fastest edge tells what comes out.
    return quantity(sum(sums["in"])) if sums["in"] else "", quantity(max(sums["out"])) if sums["out"] else ""


def pipeline_views(pipeline: PipelineView, live: Mapping[str, LiveView]) -> list[LiveView]:
    """The last heartbeats of a pipeline's instances, of those that have ended too."""
    found = (live.get(instance.instance) for instance in pipeline.instances)
    return [view for view in found if view is not None]


def edge_row(edge: conservation.Edge) -> Row:
    """One edge under ``EDGE_HEAD``; what its sending end counts, and the receiving end where only that one does."""
    sent, received = edge.sent, edge.received
    end = sent or received
    mark, style = MARKS[edge.balance]
    words = "; ".join(violation.detail for violation in edge.violations)
    return (
        f"{edge.sender} -> {edge.receiver}",
        quantity(end.events_total) if end else "",
        quantity(end.rate) if end else "",
        quantity(end.bytes_rate) if end else "",
        quantity(sent.in_flight) if sent else "",
        _span(sent.oldest_s) if sent and sent.in_flight else "",
        _span(sent.delivery_p50_s) if sent else "",
        _span(sent.delivery_p99_s) if sent else "",
        _span(received.source_lag_s) if received and received.events_total else "",
        quantity(sent.credit_events) if sent and sent.connected else Cell("-", "faint"),
        quantity(sent.resent_total) if sent else "",
        Cell(quantity(sent.dropped_total), "bad" if sent.dropped_total else "faint") if sent else "",
        Cell(f"{mark} {words}".rstrip(), style),
    )


def _span(seconds: float) -> str:
    """A short time; nothing for what was not measured."""
    if seconds < 0:
        return ""
    return f"{seconds * 1e3:.1f}ms" if seconds < 1 else f"{seconds:.1f}s"


def edges_json(pipeline: PipelineView, live: Mapping[str, LiveView]) -> dict[str, Any]:
    """The joined edges of a pipeline, and everything that does not add up, as JSON values."""
    views = pipeline_views(pipeline, live)
    joined: dict[str, Any] = msgspec.to_builtins(conservation.edges(views))
    wrong: dict[str, Any] = msgspec.to_builtins(conservation.violations(views))
    return {"edges": joined, "violations": wrong}


def violations(board: Board) -> list[conservation.Violation]:
    """Everything that does not add up, in all pipelines that are shown."""
    return [
        violation
        for pipeline in board.status.pipelines
        for violation in conservation.violations(pipeline_views(pipeline, board.live))
    ]


def host_row(host: HostView, now_ms: int) -> Row:
    """One host under ``HOST_HEAD``."""
    labels = ",".join(f"{key}={value}" for key, value in sorted(host.labels.items()))
    since = age(now_ms - host.since_ms) if host.since_ms else ""
    return (
        host.name,
        state(host.status),
        since,
        host.address,
        ",".join(host.drivers),
        str(host.instances),
        labels,
        host.reason,
    )


def as_json(board: Board, *, edges: bool = False) -> dict[str, Any]:
    """The status with each instance's last heartbeat under ``live`` (null where there is none).

    With ``edges`` each pipeline has ``edges`` and ``violations`` besides, see ``flowctl.conservation``, and ``live`` is there of
    instances that have ended too: their last counters are what is compared.
    """
    status: dict[str, Any] = msgspec.to_builtins(board.status)
    for view, pipeline in zip(board.status.pipelines, status["pipelines"], strict=True):
        if edges:
            pipeline.update(edges_json(view, board.live))
        for instance in pipeline["instances"]:
            live = board.live.get(instance["instance"]) if edges or instance["phase"] in LIVE_PHASES else None
            instance["live"] = msgspec.to_builtins(live) if live else None
    return status


def differences(before: PipelineView | None, after: PipelineView) -> list[str]:
    """What has changed between two looks, one line each, for a terminal that cannot redraw."""
    known = {each.instance: each for each in before.instances} if before else {}
    lines: list[str] = []
    for instance in after.instances:
        old = known.get(instance.instance)
        now = _words(instance)
        if old is None or _words(old) != now:
            lines.append(f"{instance.instance} {now}")
    if before is None or before.status != after.status or (after.status == "degraded" and before.reason != after.reason):
        reason = f": {_steady(after.reason)}" if after.reason and after.status in TROUBLED else ""
        lines.append(f"{after.name} is {after.status}{reason}")
    return lines


def _words(instance: InstanceView) -> str:
    shown = instance.phase if instance.status != "unhealthy" else f"{instance.phase}, unhealthy"
    incarnation = f" (incarnation {instance.incarnation})" if instance.incarnation > 1 else ""
    why = ""
    if instance.phase in ("failed", "restarting") or instance.status == "unhealthy":
        why = _steady(about(instance))
    elif instance.phase in ("assigned", "waiting") and instance.waiting_for:
        why = _steady(_wait(instance.waiting_for))
    return f"{shown}{incarnation}{f': {why}' if why else ''}"


def _wait(words: str) -> str:
    """For what it waits, or what is in the way: "a port", "no host matches label gpu=true"."""
    return words if words.startswith("no ") or "does not match" in words else f"waiting for {words}"


def _steady(words: str) -> str:
    """The words without the spans of time, which change at every look."""
    return _SPAN.sub("", words)
