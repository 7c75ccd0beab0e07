"""The streams: what they must be, what they are, and the refusal when the two differ. Never alters a stream."""

import asyncio
from typing import Any, Final

import msgspec
from msgspec import field

from flowctl.errors import JournalAbsentError, JournalCorruptError, JournalMisconfiguredError
from flowctl.journal import subjects
from flowctl.journal.jetstream.api_call import ApiError
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.snapshots import ROOM_BYTES

DEDUP_WINDOW_S: Final = 120
HEARTBEAT_AGE_S: Final = 6 * 3600
HEARTBEAT_BYTES: Final = 256 * 1024 * 1024
LOG_BYTES: Final = 1024 * 1024 * 1024
DEAD_LETTER_BYTES: Final = 1024 * 1024 * 1024
NOTICE_BYTES: Final = 64 * 1024 * 1024

STALE_ANSWERS: Final = 20
STALE_S: Final = 0.5
HEARD_S: Final = 3.0
"""A leader tells its followers every second that it leads, and they answer."""

STREAM_NOT_FOUND: Final = 10059
STREAM_EXISTS: Final = 10058

_S: Final = 1_000_000_000

Settings = dict[str, Any]


def journal_settings(replicas: int) -> Settings:
    """The journal: kept for ever, never deleted from, fsynced by the server before every acknowledgement."""
    return {
        "name": subjects.JOURNAL_STREAM,
        "description": "flowctl: everything that happened",
        "subjects": [subjects.JOURNAL_ALL],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "num_replicas": replicas,
        "duplicate_window": DEDUP_WINDOW_S * _S,
        "deny_delete": True,
        "deny_purge": True,
        "allow_rollup_hdrs": False,
        "allow_direct": False,
        "allow_atomic": True,
    }


def heartbeat_settings(replicas: int) -> Settings:
    """Heartbeats: hours, the oldest go first, nobody waits for the disk (the server allows that on one replica only)."""
    return _volatile(replicas) | {
        "name": subjects.HEARTBEAT_STREAM,
        "description": "flowctl: signs of life",
        "subjects": [subjects.HEARTBEAT_ALL],
        "max_bytes": HEARTBEAT_BYTES,
        "max_age": HEARTBEAT_AGE_S * _S,
    }


def log_settings(replicas: int) -> Settings:
    """Output of instances: as much as there is room for."""
    return _volatile(replicas) | {
        "name": subjects.LOG_STREAM,
        "description": "flowctl: output of instances",
        "subjects": [subjects.LOG_ALL],
        "max_bytes": LOG_BYTES,
        "max_age": 0,
    }


def dead_letter_settings(replicas: int) -> Settings:
    """Dead letters: on disk before they are acknowledged; a full stream takes no more rather than forget the oldest."""
    return journal_settings(replicas) | {
        "name": subjects.DEAD_LETTER_STREAM,
        "description": "flowctl: events that components gave up on",
        "subjects": [subjects.DEAD_LETTER_ALL],
        "max_bytes": DEAD_LETTER_BYTES,
        "deny_delete": False,
        "deny_purge": False,
        "allow_atomic": False,
    }


def snapshot_settings(replicas: int) -> Settings:
    """Snapshots of the fold: each part once, the oldest go first; whatever is lost is made again from the journal."""
    return _volatile(replicas) | {
        "name": subjects.SNAPSHOT_STREAM,
        "description": "flowctl: states of the fold, to begin from",
        "subjects": [subjects.SNAPSHOT_ALL],
        "max_msgs_per_subject": 1,
        "max_bytes": ROOM_BYTES,
        "max_age": 0,
    }


def notice_settings(replicas: int) -> Settings:
    """Undelivered notices: as dead letters are kept."""
    return dead_letter_settings(replicas) | {
        "name": subjects.NOTICE_STREAM,
        "description": "flowctl: notices that nobody took",
        "subjects": [subjects.NOTICE_ALL],
        "max_bytes": NOTICE_BYTES,
    }


def _volatile(replicas: int) -> Settings:
    return {
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "num_replicas": replicas,
        "duplicate_window": DEDUP_WINDOW_S * _S,
        "allow_direct": False,
        "allow_atomic": False,
        **({"persist_mode": "async"} if replicas == 1 else {}),
    }


# What an operator may choose otherwise: how much room the volatile streams and the dead letters get, and what they are called
# for people.
_FREE: Final = frozenset({"description", "max_msgs", "max_msgs_per_subject", "max_msg_size", "max_consumers"})
_FREE_WHEN_VOLATILE: Final = frozenset({"max_bytes", "max_age", "duplicate_window", "persist_mode", "allow_direct"})
_EMPTY: Final[dict[str, object]] = {
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "allow_direct": False,
    "allow_atomic": False,
    "max_age": 0,
    "duplicate_window": 0,
}
# Limits that the journal must not have; the server leaves some of them out or writes -1 or 0 for "none".
_UNLIMITED: Final = ("max_msgs", "max_msgs_per_subject", "max_bytes")


def misconfigured(wanted: Settings, found: Settings) -> str | None:
    """What is wrong with a stream's configuration, as one sentence; None if nothing is."""
    volatile = wanted["discard"] == "old"
    for name, want in wanted.items():
        if name in _FREE or (volatile and name in _FREE_WHEN_VOLATILE):
            continue
        if name == "max_bytes" and want != -1:
            continue
        have = found.get(name, _EMPTY.get(name))
        if have != want:
            return _sentence(wanted["name"], name, have, want)
    if not volatile:
        for name in _UNLIMITED:
            if wanted[name] == -1 and (found.get(name) or -1) > 0:
                return _sentence(wanted["name"], name, found[name], -1)
        for name in ("mirror", "sources", "republish", "subject_transform", "sealed", "allow_msg_ttl"):
            if found.get(name):
                return _sentence(wanted["name"], name, found[name], "unset")
    return None


def _sentence(stream: str, name: str, have: object, want: object) -> str:
    return f"stream {stream}: {name} is {_shown(have)} and must be {_shown(want)}"


def _shown(value: object) -> str:
    return "unset" if value is None else msgspec.json.encode(value).decode() if not isinstance(value, str) else value


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0


class Follower(msgspec.Struct, frozen=True):
    """One of the stream's other copies, as its leader knows it: whether it has everything, and how many ns ago it was heard."""

    current: bool = False
    offline: bool = False
    active: int = 0


class Group(msgspec.Struct, frozen=True):
    """Who keeps the stream: the server that leads it, and the others."""

    leader: str = ""
    replicas: list[Follower] = field(default_factory=list[Follower])


class StreamInfo(msgspec.Struct, frozen=True):
    """The server's answer to ``STREAM.INFO``. ``ts`` is the server's own time of the answer (RFC 3339)."""

    config: dict[str, Any]
    state: StreamState
    created: str = ""
    ts: str = ""
    cluster: Group | None = None

    @property
    def leads(self) -> bool:
        """Whether most of the copies follow the server that answered; one that is cut off goes on for a while as if they did."""
        if self.cluster is None:
            return True
        followers = self.cluster.replicas
        following = [each for each in followers if each.current and not each.offline and each.active < HEARD_S * _S]
        return len(following) + 1 > (len(followers) + 1) / 2


async def stream_info(connection: Connection, stream: str, *, timeout_s: float | None = None) -> StreamInfo:
    """What the stream is and holds.

    Raises:
        JournalCorruptError: it is not there.
        ApiError: the server refuses otherwise.
        JournalUnavailableError: the server does not answer.
    """
    try:
        return await connection.api(f"STREAM.INFO.{stream}", None, StreamInfo, timeout_s=timeout_s)
    except ApiError as error:
        if error.err_code == STREAM_NOT_FOUND:
            raise JournalCorruptError(f"stream {stream} is not there any more") from error
        raise


async def info_upto(connection: Connection, stream: str, seq: int) -> StreamInfo:
    """What the stream is and holds; if it has several copies, not before it holds message ``seq``, or for ten seconds does not.

    A leader that is cut off from the others answers with what it had until it notices; a new one before it has applied all that
    it has. So only a leader that has been followed for those ten seconds is believed that there is no such message.

    Raises:
        JournalUnavailableError: the server does not answer, or does not know.
        JournalCorruptError, ApiError: as for ``stream_info``.
    """
    info = await stream_info(connection, stream)
    led = 0
    for _ in range(STALE_ANSWERS):
        if info.state.last_seq >= seq or info.config.get("num_replicas") == 1:
            return info
        led += info.leads
        await asyncio.sleep(STALE_S)
        info = await stream_info(connection, stream)
    if info.state.last_seq < seq and led < STALE_ANSWERS:
        raise connection.unavailable(f"{stream} ends at {info.state.last_seq} on a server that most of the others do not follow")
    return info


async def ensure_stream(connection: Connection, wanted: Settings, *, create: bool) -> StreamInfo:
    """The stream as it is, created if it is absent and ``create``.

    Raises:
        JournalMisconfiguredError: it differs from ``wanted`` where that matters, or cannot be created.
        JournalAbsentError: it is absent.
        JournalUnavailableError: the server does not answer.
    """
    name = wanted["name"]
    try:
        info = await connection.api(f"STREAM.INFO.{name}", None, StreamInfo)
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise _refusal(error, name) from error
        if not create:
            raise JournalAbsentError(
                f"stream {name} does not exist", hint="flowctl's services make it when they first start with this NATS server"
            ) from error
        info = await _create(connection, wanted)
    if (problem := misconfigured(wanted, info.config)) is not None:
        raise JournalMisconfiguredError(problem)
    return info


async def _create(connection: Connection, wanted: Settings) -> StreamInfo:
    name = wanted["name"]
    try:
        return await connection.api(f"STREAM.CREATE.{name}", wanted, StreamInfo)
    except ApiError as error:
        if error.err_code != STREAM_EXISTS:
            raise _refusal(error, name) from error
    # Somebody else was first, with other settings: what is there will be compared.
    return await connection.api(f"STREAM.INFO.{name}", None, StreamInfo)


def _refusal(error: ApiError, stream: str) -> Exception:
    return JournalMisconfiguredError(f"stream {stream}: the server says: {error.message}")
