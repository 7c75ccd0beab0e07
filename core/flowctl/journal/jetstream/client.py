"""nats-py's client with six of its habits changed."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

_SPACE: Final = " \t\r\n\x0b\x0c"


@functools.lru_cache(maxsize=1024)
def _is_header_name(name: str) -> bool:
    return name.isascii() and not any(character.isspace() for character in name)


def parse_header_lines(raw: bytes) -> dict[str, str]:
    """The headers of a block of ``Name: value`` lines, exactly as nats-py reads them."""
    headers: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.strip(_SPACE)
        if colon and _is_header_name(name):
            headers[name] = value.strip(_SPACE)
    return headers


Sink = Callable[[bytes, bytes, bytes | None, bytes], None]
"""Takes a message as it came: subject, reply subject, header block (``NATS/1.0`` and its lines) or None, data."""

LARGE_BYTES: Final = 256 * 1024
CANCEL_AGAIN_S: Final = 0.01


class PatientClient(Client):
    """nats-py closes for ever on most errors that a server reports (too many connections, a reload); this one does not.

    It also spends two thirds of a replay on looking for spaces in header names; this one looks once at each name. And who reads
    a whole stream gets its messages raw: making an object of each and queueing it for a task takes longer than folding it.
    An attempt to connect that came half-way leaves its socket to the garbage collector there, and is closed here. Who waits for
    a socket's end and is cancelled cancels the wait of everybody else (a future of asyncio's streams, shared by all who wait):
    whoever closes a client is not ended by that. And nobody can close it when the server is gone while something is still to be
    sent; here it closes.
    """

    _parse_header_lines = staticmethod(parse_header_lines)

    def __init__(self) -> None:
        super().__init__()
        self.sinks: dict[int, Sink] = {}
        self._ps = _Parser(self)

    async def subscribe_raw(self, subject: str, sink: Sink) -> Subscription:
        """Give every message of the subject to ``sink`` as soon as it is read, in order, until the subscription ends."""
        subscription: Subscription = await self.subscribe(subject)  # pyright: ignore[reportUnknownMemberType]
        self.sinks[subscription._id] = sink  # pyright: ignore[reportPrivateUsage] - nats-py has no other name for it
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self.sinks.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:  # noqa: ANN401
        sink = self.sinks.get(sid)
        if sink is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            sink(bytes(subject), bytes(reply), headers, data)

    async def _connect_to_server(self, s: Any) -> None:  # noqa: ANN401 - nats-py does not export the type
        if self._transport is not None:
            self._transport.close()
        await super()._connect_to_server(s)

    async def _close(self, *args: Any, **words: Any) -> None:  # noqa: ANN401 - as in nats-py
        """However it ends: no attempt to connect goes on, and no socket stays open."""
        try:
            try:
                await super()._close(*args, **words)
            except OSError:  # what was to be sent cannot be: go on with the rest
                self._status = Client.DISCONNECTED
                await super()._close(*args, **words)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        finally:
            await self._end_attempts()
            if self._transport is not None:
                self._transport.close()

    async def _end_attempts(self) -> None:
        """Cancel the attempts to connect until they have ended.

        Before Python 3.12 ``asyncio.wait_for`` forgets that it was cancelled if what it waits for fails at that moment, and a
        server that is gone fails at every moment.
        """
        attempts = self._reconnection_task
        while attempts is not None and not attempts.done() and attempts is not asyncio.current_task():
            attempts.cancel()
            await asyncio.wait([attempts], timeout=CANCEL_AGAIN_S)
            self._status = Client.CLOSED  # an attempt that fails says that there will be another one

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg:
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(nats_errors.Error(f"the server says {err_msg}"))


class _Parser(Parser):
    """nats-py's parser, with a short way for messages that go to a sink; whatever is not one of these takes the long way."""

    def __init__(self, client: PatientClient) -> None:
        super().__init__(client)  # pyright: ignore[reportUnknownMemberType]
        self._sinks = client.sinks

    async def parse(self, data: bytes = b"") -> None:
        self.buf.extend(data)
        if self._sinks and self.state == AWAITING_CONTROL_LINE and self._deliver():
            return
        await super().parse()

    def _deliver(self) -> bool:
        """Give away all whole messages at the beginning of the buffer; whether what is left is the beginning of another."""
        raw = bytes(self.buf)
        at = 0
        partial = False
        while raw.startswith(b"HMSG ", at):
            end = raw.find(b"\r\n", at)
            words = raw[at + 5 : end].split() if end > 0 else []
            sink = self._sinks.get(int(words[1])) if len(words) == 5 else None
            if sink is None:
                break
            begin = end + 2
            middle, stop = begin + int(words[3]), begin + int(words[4])
            if stop + 2 > len(raw):
                partial = stop - begin < LARGE_BYTES  # a larger one would be looked at too often until it is there
                break
            sink(words[0], words[2], raw[begin:middle], raw[middle:stop])
            at = stop + 2
        del self.buf[:at]
        return partial
