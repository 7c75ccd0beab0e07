"""Is what came from outside well-formed? Every bound of the registry's requests. Pure.

Each function returns what it was given, made safe, or raises ``UserError`` with one sentence that names the field.
"""

import math
import re
from collections.abc import Mapping
from typing import Final, cast

import msgspec

from flowctl.errors import UserError
from flowctl.ids import InstanceId, check_id
from flowctl.journal.heartbeats import EdgeCounters, GroupCounters
from flowctl.latency import BUCKETS
from flowctl_registry.requests import Caller, Commit, Deregister, Outcome, PutLetter, Register

MAX_INCARNATION: Final = 2**53 - 1
MAX_POSITION: Final = 2**63 - 1
MAX_BOOT_ID: Final = 128
MAX_NAME: Final = 256
MAX_DESCRIPTION: Final = 4_096
MAX_OUTPUT_TYPES: Final = 64
MAX_LABELS: Final = 64
MAX_LABEL: Final = 256
MAX_ENDPOINT: Final = 1_024
MAX_DETAIL: Final = 4_096
MAX_CURSOR_BYTES: Final = 64 * 1024
MAX_METRICS: Final = 64
MAX_EDGES: Final = 2_000
MAX_HOST: Final = 253
MAX_ERROR: Final = 4_096
MAX_ATTEMPTS: Final = 2**31 - 1
MAX_OUTCOMES: Final = 256

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BOOT_ID = re.compile(r"\A[!-~]+\Z")
_HOST = re.compile(r"\A(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\])\Z")
_PORT = re.compile(r"\A[0-9]{1,5}\Z")
_URL = re.compile(r"\Ahttps?://(?P<authority>[^/?#@\s]+)(?:[/?#]\S*)?\Z")
_METRIC = re.compile(r"\A[a-z0-9_]{1,63}\Z")
_PEER = re.compile(r"\A[a-z0-9][a-z0-9_-]{0,62}\.(?:0|[1-9][0-9]{0,3})\Z")


def checked_caller(pipeline: str, component: str, index: int, incarnation: int) -> Caller:
    """Who asks. An incarnation of 0 (a client that knows of none) means the first.

    Raises:
        InvalidIdError, UserError: a part is not valid.
    """
    if incarnation < 0 or incarnation > MAX_INCARNATION:
        raise UserError(f"instance.incarnation is {incarnation}: expected 1 to {MAX_INCARNATION}")
    return Caller(InstanceId.checked(pipeline, component, index), incarnation or 1)


def checked_register(request: Register) -> Register:
    """A registration within its bounds."""
    _text("boot_id", request.boot_id, MAX_BOOT_ID)
    if not _BOOT_ID.match(request.boot_id):
        raise UserError("boot_id is needed: something unique to this run of the program, printable ASCII without spaces")
    if request.address or request.kind != "sink":
        checked_address("address", request.address)
    if request.health_endpoint:
        _endpoint(request.health_endpoint)
    _text("metadata.name", request.name, MAX_NAME)
    _text("metadata.version", request.version, MAX_NAME)
    _text("metadata.description", request.description, MAX_DESCRIPTION, lines=True)
    if len(request.output_types) > MAX_OUTPUT_TYPES:
        raise UserError(f"metadata.output_types has {len(request.output_types)} entries, at most {MAX_OUTPUT_TYPES} are allowed")
    for output_type in request.output_types:
        _text("metadata.output_types", output_type, MAX_NAME)
    _labels(request.labels)
    return request


def checked_address(field: str, address: str) -> str:
    """``host:port`` as peers dial it (``[…]:port`` for IPv6).

    Raises:
        UserError: it is something else.
    """
    if not address:
        raise UserError(f"{field} is empty: sources and processors say where their data plane listens, as host:port")
    host, _, port = address.rpartition(":")
    if len(host) > MAX_HOST or not _HOST.match(host) or not _PORT.match(port):
        raise UserError(f"{field} is {address[:80]!r}: expected host:port, for example 10.0.0.5:50051")
    if not 1 <= int(port) <= 65_535:
        raise UserError(f"{field} is {address[:80]!r}: the port must be 1 to 65535")
    if host in ("0.0.0.0", "[::]"):  # noqa: S104 - refused here
        raise UserError(f"{field} is {address[:80]!r}: nobody can dial the wildcard address, name this host")
    return address


def _endpoint(endpoint: str) -> None:
    _text("health_endpoint", endpoint, MAX_ENDPOINT)
    if "://" not in endpoint:
        checked_address("health_endpoint", endpoint)
        return
    url = _URL.match(endpoint)
    if url is None:
        raise UserError(f"health_endpoint is {endpoint[:80]!r}: expected host:port or http(s)://host[:port]/path")
    authority = url["authority"]
    has_port = ":" in authority and not authority.endswith("]")
    checked_address("health_endpoint", authority if has_port else f"{authority}:80")


def _labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise UserError(f"metadata.labels has {len(labels)} entries, at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not key:
            raise UserError("metadata.labels has an empty name")
        _text("metadata.labels", key, MAX_LABEL)
        _text(f"metadata.labels[{key!r}]", value, MAX_LABEL)


def _text(field: str, value: str, longest: int, *, lines: bool = False) -> None:
    if len(value) > longest:
        raise UserError(f"{field} has {len(value)} characters, at most {longest} are allowed")
    if (_CONTROL_BUT_LINES if lines else _CONTROL).search(value):
        raise UserError(f"{field} contains a control character")


def checked_deregister(request: Deregister) -> Deregister:
    """A farewell with its detail cut to ``MAX_DETAIL`` characters: a long error message must not keep a program from ending."""
    return Deregister(caller=request.caller, reason=request.reason, detail=cut(request.detail, MAX_DETAIL))


def cut(text: str, longest: int) -> str:
    """What a program says of its failure, without control characters but line breaks, and of a bounded length."""
    clean = _CONTROL_BUT_LINES.sub("\N{REPLACEMENT CHARACTER}", text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def checked_commit(request: Commit) -> Commit:
    """A checkpoint within its bounds."""
    if not 0 <= request.position <= MAX_POSITION:
        raise UserError(f"checkpoint.position is {request.position}: expected 0 to {MAX_POSITION}")
    if len(request.cursor) > MAX_CURSOR_BYTES:
        raise UserError(f"checkpoint.cursor has {len(request.cursor)} bytes, at most {MAX_CURSOR_BYTES} are allowed")
    return request


def checked_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Counters and gauges of a heartbeat."""
    if len(metrics) > MAX_METRICS:
        raise UserError(f"metrics has {len(metrics)} entries, at most {MAX_METRICS} are allowed")
    for name, value in metrics.items():
        if not _METRIC.match(name):
            raise UserError(f"metrics has the name {name[:80]!r}: names are 1 to 63 of a-z, 0-9 and '_'")
        if not math.isfinite(value):
            raise UserError(f"metrics[{name!r}] is {value}: a metric is a finite number")
    return metrics


def checked_edges(edges: list[EdgeCounters]) -> list[EdgeCounters]:
    """Counters of the edges of a heartbeat."""
    if len(edges) > MAX_EDGES:
        raise UserError(f"edges has {len(edges)} entries, at most {MAX_EDGES} are allowed")
    for edge in edges:
        if not _PEER.match(edge.peer):
            raise UserError(f"edges has the peer {edge.peer[:80]!r}: expected <component>.<index>")
        if _largest(edge) > MAX_POSITION:
            raise UserError(f"edges[{edge.peer!r}] has a counter above {MAX_POSITION}")
        if len(edge.delivery_buckets) not in (0, BUCKETS):
            raise UserError(f"edges[{edge.peer!r}] has {len(edge.delivery_buckets)} delivery_buckets: expected none or {BUCKETS}")
        for span in (edge.oldest_s, edge.source_lag_s, edge.delivery_s_total):
            if not math.isfinite(span) or span < 0:
                raise UserError(f"edges[{edge.peer!r}] has a time of {span} s: expected a finite number of at least 0")
    return edges


def checked_groups(groups: list[GroupCounters]) -> list[GroupCounters]:
    """Counters of the downstream components of a heartbeat."""
    if len(groups) > MAX_EDGES:
        raise UserError(f"groups has {len(groups)} entries, at most {MAX_EDGES} are allowed")
    for group in groups:
        check_id(group.component, "groups.component")
        if _largest(group) > MAX_POSITION:
            raise UserError(f"groups[{group.component!r}] has a counter above {MAX_POSITION}")
    return groups


def _largest(counters: EdgeCounters | GroupCounters) -> int:
    """The largest whole number among the counters."""
    numbers: list[int] = []
    for value in msgspec.structs.astuple(counters):
        if isinstance(value, list):
            numbers += cast("list[int]", value)
        elif isinstance(value, int):
            numbers.append(value)
    return max(numbers)


def checked_letter(request: PutLetter) -> PutLetter:
    """An event that was given up on, whose identity is one. Its error is cut to ``MAX_ERROR`` characters beforehand."""
    if not _PEER.match(request.origin):
        raise UserError(f"letter.origin is {request.origin[:80]!r}: expected <component>.<index> of a source")
    if request.position > MAX_POSITION:
        raise UserError(f"letter.position is {request.position}: expected 0 to {MAX_POSITION}")
    if request.path and not request.path.startswith("/"):
        raise UserError(f"letter.path is {request.path[:80]!r}: expected /<processor>.<ordinal> for each processor, or nothing")
    if not 1 <= request.attempts <= MAX_ATTEMPTS:
        raise UserError(f"letter.attempts is {request.attempts}: expected 1 to {MAX_ATTEMPTS}")
    return request


def checked_outcomes(outcomes: list[Outcome]) -> list[Outcome]:
    """What came of redriven letters."""
    if len(outcomes) > MAX_OUTCOMES:
        raise UserError(f"outcomes has {len(outcomes)} entries, at most {MAX_OUTCOMES} are allowed")
    return outcomes
