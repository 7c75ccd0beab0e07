"""Durable subscriptions on JetStream: pull consumers with one entry under way, acknowledged explicitly and with an answer.

One at a time, because a consumer with several under way gives out newer entries before one that it gives out again.
"""

import asyncio
import contextlib
import itertools
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats import errors as nats_errors
from nats.aio.msg import Msg

from flowctl.journal import codec, subjects
from flowctl.journal.jetstream.api_call import ApiError
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.reader import CONSUMER_NOT_FOUND
from flowctl.journal.log import Entry
from flowctl.journal.subscriptions import ACK_WAIT_S, Subscribed

EXPIRES_S: Final = 20
RETRY_S: Final = 0.2

_S: Final = 1_000_000_000
_pulls = itertools.count(1)
_STATUS_GONE: Final = ("409", "503")


class _State(msgspec.Struct):
    stream_seq: int = 0


class _Info(msgspec.Struct):
    config: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    ack_floor: _State = msgspec.field(default_factory=_State)
    num_pending: int = 0
    num_ack_pending: int = 0


class JetStreamSubscriptions:
    """See ``Subscriptions``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def open(self, name: str, subject: str | Sequence[str], *, after: int | None = None) -> "JetStreamSubscription":
        """See ``Subscriptions``."""
        self._connection.raise_if_broken()
        found = await self._info(name)
        begin: dict[str, Any] = {"deliver_policy": "new"}
        if found is not None:
            kept = ("deliver_policy", "opt_start_seq", "opt_start_time")
            begin = {key: found.config[key] for key in kept if found.config.get(key)}
        elif after is not None:
            begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        config = begin | {
            "durable_name": name,
            "description": "flowctl: a durable subscription",
            **({"filter_subject": subject} if isinstance(subject, str) else {"filter_subjects": list(subject)}),
            "ack_policy": "explicit",
            "ack_wait": round(ACK_WAIT_S * _S),
            "max_ack_pending": 1,
            "max_deliver": -1,
        }
        body = {"stream_name": subjects.JOURNAL_STREAM, "config": config}
        try:
            await self._connection.api(f"CONSUMER.CREATE.{subjects.JOURNAL_STREAM}.{name}", body, _Info)
        except ApiError as error:
            raise self._connection.unavailable(error.message) from error
        return JetStreamSubscription(self._connection, name)

    async def look(self, name: str) -> Subscribed | None:
        """See ``Subscriptions``."""
        found = await self._info(name)
        return None if found is None else Subscribed(name, found.ack_floor.stream_seq, found.num_pending + found.num_ack_pending)

    async def forget(self, name: str) -> bool:
        """See ``Subscriptions``."""
        try:
            subject = f"CONSUMER.DELETE.{subjects.JOURNAL_STREAM}.{name}"
            await self._connection.api(subject, None, dict[str, Any], again=False)
        except ApiError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                return False
            raise self._connection.unavailable(error.message) from error
        return True

    async def _info(self, name: str) -> _Info | None:
        try:
            return await self._connection.api(f"CONSUMER.INFO.{subjects.JOURNAL_STREAM}.{name}", None, _Info)
        except ApiError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise self._connection.unavailable(error.message) from error


class JetStreamSubscription:
    """See ``Subscription``. Made by ``open``."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._reply = ""

    async def next(self) -> Entry:
        """See ``Subscription``."""
        while True:
            message = await self._pull()
            if message.reply:
                self._reply = message.reply
                seq, time_ns = _place(message.reply)
                return codec.decode(seq, time_ns, message.subject, message.headers, message.data)
            await self._take_note(message)

    async def _pull(self) -> Msg:
        """Ask for one message; what comes is one, or the server's word that there is none.

        Raises:
            JournalUnavailableError: nothing came, or the connection is lost.
        """
        self._connection.raise_if_broken()
        mailbox, inbox = _Mailbox(), f"{self._connection.inbox}.d.{next(_pulls)}"
        try:
            # A message comes under its own subject, so it cannot come in as a reply does.
            subscription = await self._connection.client.subscribe(inbox, cb=mailbox.put)
        except (nats_errors.Error, OSError) as error:
            raise self._connection.unavailable(str(error)) from error
        self._connection.on_disconnect.append(mailbox.lose)
        try:
            body = msgspec.json.encode({"batch": 1, "expires": EXPIRES_S * _S})
            await self._connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{subjects.JOURNAL_STREAM}.{self._name}", body, reply=inbox)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(mailbox.filled.wait(), EXPIRES_S + 5)
            if mailbox.message is None:
                raise self._connection.unavailable("nothing came, not even a no")
            return mailbox.message
        finally:
            self._connection.on_disconnect.remove(mailbox.lose)
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def working(self) -> None:
        """See ``Subscription``."""
        await self._connection.publish(self._reply, b"+WPI")

    async def done(self) -> None:
        """See ``Subscription``."""
        await self._connection.request(self._reply, b"+ACK")

    async def _take_note(self, message: Msg) -> None:
        """Nothing came: nothing is new, or the server says why.

        Raises:
            JournalUnavailableError: the consumer is gone, or nobody answers for it.
        """
        headers = message.headers or {}
        status = re.sub(r"\D", "", headers.get("Status", ""))
        if status in _STATUS_GONE:
            raise self._connection.unavailable(headers.get("Description") or f"subscription {self._name}: status {status}")
        await asyncio.sleep(0 if status == "408" else RETRY_S)


class _Mailbox:
    """What comes in answer to one question; None if the connection is lost before."""

    def __init__(self) -> None:
        self.message: Msg | None = None
        self.filled = asyncio.Event()

    async def put(self, message: Msg) -> None:
        """Take in a message."""
        self.message = self.message or message
        self.filled.set()

    def lose(self) -> None:
        """The connection is lost: nothing will come."""
        self.filled.set()


def _place(reply: str) -> tuple[int, int]:
    """The stream sequence and the server's time, as the reply subject of a delivered message says them; see ``reader.parse``."""
    parts = reply.split(".")
    at = 5 if len(parts) == 9 else 7
    return int(parts[at]), int(parts[at + 2])
