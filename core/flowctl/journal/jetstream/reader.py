"""Reading a stream with a pull consumer: batches, no gaps, no polling, a prompt error when the server goes away."""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

import msgspec
from nats import errors as nats_errors
from nats.aio.subscription import Subscription

from flowctl.errors import JournalCorruptError
from flowctl.instants import iso_time
from flowctl.journal.jetstream.api_call import ApiError
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.messages import get_message, parse_headers
from flowctl.journal.log import Subjects

BATCH: Final = 2_000
BATCH_BYTES: Final = 16 * 1024 * 1024
EXPIRES_S: Final = 60
ENDING_EXPIRES_S: Final = 12
"""The same for a reading that ends: what it waits for may have been discarded meanwhile, which nobody tells."""
IDLE_HEARTBEAT_S: Final = 5
INACTIVE_S: Final = 60
MAX_FRUITLESS: Final = 8
LAG_PAUSE_S: Final = 0.05
MAX_LAG_PAUSE_S: Final = 1.0

CONSUMER_NOT_FOUND: Final = 10014
STREAM_NOT_FOUND: Final = 10059

_S: Final = 1_000_000_000
_names = itertools.count(1)


class Raw(msgspec.Struct, frozen=True, gc=False):
    """One stored message, with its header block as it is stored. ``pending`` is how many of the consumer's come after it."""

    seq: int
    time_ns: int
    subject: str
    block: bytes
    data: bytes
    pending: int
    consumer_seq: int

    @property
    def headers(self) -> dict[str, str]:
        """The headers, read from the block."""
        return parse_headers(self.block)


class Position(msgspec.Struct, frozen=True):
    """Where a consumer begins: after a stream sequence, at a time (Unix nanoseconds), or with the last of each subject."""

    after: int = 0
    since_ns: int = 0
    last_per_subject: bool = False


class _ConsumerInfo(msgspec.Struct):
    name: str = ""
    num_pending: int = 0


_Message = tuple[bytes, bytes, bytes, bytes]
"""Subject, reply subject, header block, data."""


class _Mailbox:
    """What arrives on one subscription, in order."""

    def __init__(self) -> None:
        self.messages: deque[_Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.lost = False

    def put(self, subject: bytes, reply: bytes, block: bytes | None, data: bytes) -> None:
        self.messages.append((subject, reply, block or b"", data))
        if self._waiter is not None:
            self._wake()

    def lose(self) -> None:
        self.lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Whether something is there, or the connection is lost, before the time is over."""
        if self.messages or self.lost:
            return True
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiter
        except TimeoutError:
            return False
        finally:
            self._waiter = None
        return True


class StreamReader:
    """One reading of one stream, or of what ``subject`` (one wildcard or several) filters of it.

    ``contiguous`` demands that every stream sequence after the position is there; only without a filter. ``headers_only`` leaves
    the data at the server.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        subject: Subjects = None,
        contiguous: bool = False,
        headers_only: bool = False,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._contiguous = contiguous
        self._headers_only = headers_only
        self._mailbox = _Mailbox()
        self._inbox = f"{connection.inbox}.c.{next(_names)}"
        self._consumer = ""
        self._pull = ""
        self._pulls = itertools.count(1)
        self._wanted = 0
        self._at = Position()
        self._consumer_seq = 0
        self._follow = False

    async def batches(self, position: Position, *, follow: bool, upto: int | None = None) -> AsyncGenerator[list[Raw]]:
        """Messages in order, in the batches in which they arrive; without ``follow`` it ends at ``upto``, or with what is there.

        What is there is for the stream's leader to say: a consumer lies on any of a cluster's servers, which may have less.

        Raises:
            JournalUnavailableError: the server went away or does not answer.
            JournalCorruptError: a sequence is missing, or the stream is.
        """
        self._at = position
        self._follow = follow
        client = self._connection.client
        try:
            subscription = await client.subscribe_raw(f"{self._inbox}.*", self._mailbox.put)
        except (nats_errors.Error, OSError) as error:  # a client that was given up, before there is another
            raise self._connection.unavailable(str(error)) from error
        self._connection.on_disconnect.append(self._mailbox.lose)
        try:
            if await self._create() == 0 and not follow and await self._is_all(upto):
                return
            fruitless = 0
            while True:
                if self._wanted <= 0:
                    # No more than can be wanted: whoever looks at a few entries of a long stream is not sent thousands.
                    await self._request_more(BATCH if upto is None else max(1, min(BATCH, upto - self._at.after)))
                raws, troubled = await self._receive()
                if raws:
                    fruitless = 0
                    if upto is not None and raws[-1].seq >= upto:
                        yield [raw for raw in raws if raw.seq <= upto]
                        return
                    yield raws
                    if not follow and raws[-1].pending == 0 and await self._is_all(upto):
                        return
                if troubled:
                    fruitless += 1
                    await self._recover(fruitless)
                    if not follow and not raws and await self._pending() == 0 and await self._is_all(upto):
                        return
        finally:
            self._connection.on_disconnect.remove(self._mailbox.lose)
            await self._dismiss(subscription)

    async def _is_all(self, upto: int | None) -> bool:
        """The consumer has given all that it has: whether that is all there is, up to ``upto``.

        If not, another consumer is made at the present position, on whichever server the cluster chooses now.
        """
        if not self._connection.server_info.get("cluster"):
            return True
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + self._connection.request_timeout_s, LAG_PAUSE_S
        while True:
            end = await self._end()
            if self._at.after >= (end if upto is None else min(end, upto)):
                return True
            if loop.time() > deadline:
                raise self._connection.unavailable(f"no server gives entries of {self._stream} beyond {self._at.after}")
            await self._delete()
            self._mailbox.messages.clear()
            if await self._create():
                return False
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_LAG_PAUSE_S, 2 * pause_s)

    async def _end(self) -> int:
        """The sequence of the last message that is meant, by the word of the stream's leader; 0 if there is none."""
        meant = [">"] if self._subject is None else [self._subject] if isinstance(self._subject, str) else self._subject
        try:
            found = [await get_message(self._connection, self._stream, {"last_by_subj": subject}) for subject in meant]
        except ApiError as error:
            raise self._translated(error) from error
        return max((message.seq for message in found if message is not None), default=0)

    async def count(self, position: Position) -> int:
        """How many messages follow the position now.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        self._at = position
        waiting = await self._create()
        await self._delete()
        return waiting

    # --- the consumer ------------------------------------------------------------------------------------------------------

    async def _create(self) -> int:
        """Create the consumer at the present position; how many messages wait for it."""
        name = f"flowctl-{self._connection.inbox.rpartition('.')[2]}-{next(_names)}"
        config: dict[str, object] = {
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_S * _S,
            "max_deliver": -1,
        }
        if isinstance(self._subject, str):
            config["filter_subject"] = self._subject
        elif self._subject is not None:
            config["filter_subjects"] = list(self._subject)
        if self._headers_only:
            config["headers_only"] = True
        if self._at.last_per_subject:
            config |= {"deliver_policy": "last_per_subject"} | ({"filter_subject": ">"} if self._subject is None else {})
        elif self._at.since_ns:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": iso_time(self._at.since_ns)}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._at.after + 1}
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        try:
            info = await self._connection.api(f"CONSUMER.CREATE.{self._stream}.{name}", body, _ConsumerInfo)
        except ApiError as error:
            raise self._translated(error) from error
        self._consumer, self._consumer_seq, self._wanted = info.name, 0, 0
        return info.num_pending

    async def _pending(self) -> int:
        try:
            info = await self._connection.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}", None, _ConsumerInfo)
        except ApiError as error:
            raise self._translated(error) from error
        return info.num_pending

    def _translated(self, error: ApiError) -> Exception:
        if error.err_code == STREAM_NOT_FOUND:
            return JournalCorruptError(f"stream {self._stream} is not there any more")
        return self._connection.unavailable(error.message)

    async def _request_more(self, count: int) -> None:
        self._pull = f"{self._inbox}.{next(self._pulls)}"
        self._wanted = count
        body = {
            "batch": count,
            "max_bytes": BATCH_BYTES,
            "expires": (EXPIRES_S if self._follow else ENDING_EXPIRES_S) * _S,
            "idle_heartbeat": IDLE_HEARTBEAT_S * _S,
        }
        await self._connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}", msgspec.json.encode(body), reply=self._pull
        )

    async def _receive(self) -> tuple[list[Raw], bool]:
        """What has arrived by now, at least something; and whether the consumer should be asked how it is."""
        if not await self._mailbox.wait(2.5 * IDLE_HEARTBEAT_S):
            return [], True
        raws: list[Raw] = []
        messages = self._mailbox.messages
        pull, consumer = self._pull.encode(), f".{self._consumer}.".encode()
        while messages:
            message = messages.popleft()
            subject, reply, block, _ = message
            if not reply:
                if subject == pull and self._ends_pull(block):
                    return raws, True
                continue
            if consumer not in reply:
                continue  # of a consumer that was given up
            raw = parse(message)
            if raw.consumer_seq != self._consumer_seq + 1:
                # Something was lost on the way to us: read on from the last that we have.
                self._consumer = ""
                messages.clear()
                return raws, True
            if self._contiguous and raw.seq != self._at.after + 1:
                if raws:
                    messages.appendleft(message)
                    return raws, False
                raise JournalCorruptError(
                    f"stream {self._stream} has no entry {self._at.after + 1}: after {self._at.after} comes {raw.seq}"
                )
            self._wanted -= 1
            self._consumer_seq = raw.consumer_seq
            self._at = Position(after=raw.seq)
            raws.append(raw)
        if self._mailbox.lost and not raws:
            raise self._connection.unavailable("the connection is lost")
        return raws, False

    def _ends_pull(self, block: bytes) -> bool:
        """Take note of a status message (``NATS/1.0 408 Request Timeout``) of the present pull; whether it means trouble."""
        words = block.partition(b"\r\n")[0].split(maxsplit=2)
        status = words[1] if len(words) > 1 else b""
        if status == b"100":
            return False
        self._wanted = 0
        empty = status in (b"404", b"408")
        return (empty and not self._follow) or (not empty and words[2:] != [b"Batch Completed"])

    async def _recover(self, fruitless: int) -> None:
        """Find out why nothing came; begin anew at the present position if the consumer is gone."""
        if fruitless > MAX_FRUITLESS:
            raise self._connection.unavailable(f"stream {self._stream} delivers nothing")
        if fruitless > 1:
            await asyncio.sleep(0.02 * 2**fruitless)
        self._wanted = 0
        if self._consumer:
            try:
                await self._connection.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}", None, _ConsumerInfo)
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise self._translated(error) from error
            else:
                return
        self._mailbox.messages.clear()
        await self._create()

    async def _dismiss(self, subscription: Subscription) -> None:
        """Let go, without waiting for the server: it forgets a consumer that nobody uses."""
        with contextlib.suppress(Exception):
            await subscription.unsubscribe()
            if self._consumer and not self._mailbox.lost:
                await self._delete()

    async def _delete(self) -> None:
        subject = f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}"
        await self._connection.publish(subject, b"", reply=f"{self._connection.inbox}.0")


def parse(message: _Message) -> Raw:
    """The stored message in a delivered one. Where it lies in the stream is said by its reply subject.

    ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>``, with a domain and an account after
    ``ACK`` on some servers.
    """
    subject, reply, block, data = message
    parts = reply.split(b".")
    at = 5 if len(parts) == 9 else 7
    return Raw(int(parts[at]), int(parts[at + 2]), subject.decode(), block, data, int(parts[at + 3]), int(parts[at + 1]))
