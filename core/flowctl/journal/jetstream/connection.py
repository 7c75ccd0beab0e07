"""One supervised client connection: requests with deadlines, a prompt error when the server goes away, and the way back."""

import asyncio
import contextlib
import itertools
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from nats import errors as nats_errors
from nats.aio.client import Server
from nats.aio.msg import Msg

from flowctl.errors import InvalidSettingError, JournalError, JournalUnavailableError
from flowctl.journal.jetstream.api_call import ApiError, ask, reply_data
from flowctl.journal.jetstream.client import PatientClient

_log = logging.getLogger(__name__)

PING_INTERVAL_S: Final = 1
MAX_PINGS: Final = 2
"""A server that answers none of two pings is left for another one: 2 to 3 s, as a host may be missed after 5 s."""
RECONNECT_WAIT_S: Final = 0.1
ATTEMPT_S: Final = 2
"""A server that is held up takes connections and greets nobody; so long it is waited for before another one is tried."""
MAX_REOPEN_WAIT_S: Final = 5.0
STUCK_AFTER_S: Final = 10.0
SUPERVISE_S: Final = 1.0


_NO_ADDRESS: Final = ("connect url", "mixing of")

T = TypeVar("T")


class Connection:
    """See the module. ``check`` runs after every reconnection, before callers are let through; what it raises stays raised."""

    def __init__(self, url: str, *, name: str, connect_timeout_s: float, request_timeout_s: float) -> None:
        self.servers = [part.strip() for part in url.split(",") if part.strip()]
        self.name = name
        self.connect_timeout_s = connect_timeout_s
        self.request_timeout_s = request_timeout_s
        self.client: Any = None
        self.inbox = f"_INBOX.flowctl.{uuid.uuid4().hex[:16]}"
        self.check: Callable[[], Awaitable[None]] | None = None
        self.on_disconnect: list[Callable[[], None]] = []
        self.on_reconnect: list[Callable[[], None]] = []
        self._replies: dict[str, asyncio.Future[Msg]] = {}
        self._tokens = itertools.count(1)
        self._ready = asyncio.Event()
        self._broken: JournalError | None = None
        self._closing = False
        self._reopening = False
        self._refused = asyncio.Event()
        self._last_error = ""
        self._at = ""
        self._left: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what callers see --------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the server is there, as far as is known, and passed the check."""
        return self._ready.is_set() and self._broken is None and self.client.is_connected

    @property
    def shown(self) -> str:
        """The servers without their credentials."""
        return ", ".join(_without_credentials(server) for server in self.servers)

    @property
    def server_info(self) -> dict[str, Any]:
        """What the connected server said of itself (INFO)."""
        return dict(self.client._server_info)  # nats-py has no public name for it

    async def open(self) -> None:
        """Connect.

        Raises:
            JournalUnavailableError: no server answered in time, or it refused the credential.
            InvalidSettingError: the address cannot be one.
        """
        if not self.servers:
            raise InvalidSettingError("the address of the NATS server is empty")
        try:
            self.client = await self._dial()
        except BaseException:
            self._closing = True
            raise
        self._ready.set()
        self._start(self._supervise())

    async def close(self) -> None:
        """Let go."""
        self._closing = True
        self._ready.clear()
        self._fail_replies()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.client is not None:
            await self.client.close()

    def raise_if_broken(self) -> None:
        """Raise what the check found wrong, for ever."""
        if self._broken is not None:
            raise self._broken

    def break_with(self, error: JournalError) -> None:
        """Let nothing through any more: what is stored is not what was there."""
        _log.error("%s", error)
        self._broken = error

    async def up(self, deadline: float) -> None:
        """Wait until the server is there; ``deadline`` by the event loop's clock.

        Raises:
            JournalUnavailableError: it is not there in time.
        """
        self.raise_if_broken()
        if self._ready.is_set():
            if self.client.is_connected:
                return
            self._ready.clear()  # lost just now, and about to be announced
        if self._closing:
            raise JournalUnavailableError("the connection to the journal is closed")
        try:
            async with asyncio.timeout_at(deadline):
                await self._ready.wait()
        except TimeoutError:
            raise self.unavailable() from None
        self.raise_if_broken()

    def unavailable(self, what: str = "") -> JournalUnavailableError:
        """The error to raise when the server does not answer."""
        reason = what or self._last_error
        return JournalUnavailableError(f"the journal at {self.shown} does not answer{f': {reason}' if reason else ''}")

    # --- requests ----------------------------------------------------------------------------------------------------------

    async def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> asyncio.Future[Msg]:
        """Publish with a reply address; the future gets the reply, or JournalUnavailableError when the connection breaks.

        Raises:
            JournalUnavailableError: there is no connection now. Nothing was sent.
        """
        self.raise_if_broken()
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._replies[token] = future
        future.add_done_callback(lambda _: self._replies.pop(token, None))
        try:
            await self.publish(subject, data, headers, reply=f"{self.inbox}.{token}")
        except BaseException:
            future.cancel()
            raise
        return future

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, reply: str = "") -> None:
        """Publish without waiting. Never buffers for a server that is away.

        Raises:
            JournalUnavailableError: there is no connection now.
        """
        if self._closing or not self.client.is_connected:
            await asyncio.sleep(0)  # whoever tries again at once must not keep the event loop from reconnecting
            raise self.unavailable()
        try:
            # A fresh dict: nats-py changes the one that it is given.
            await self.client.publish(subject, data, reply=reply, headers=None if headers is None else dict(headers))
        except (nats_errors.Error, OSError) as error:
            raise self.unavailable(str(error)) from error

    async def request(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, *, timeout_s: float | None = None
    ) -> bytes:
        """The reply's data.

        Raises:
            JournalUnavailableError: no reply in time, nobody to reply, or the connection broke.
        """
        future = await self.send(subject, data, headers)
        return reply_data(await self.within(future, timeout_s), self)

    async def within(self, future: asyncio.Future[T], timeout_s: float | None = None) -> T:
        """What the future yields, in time.

        Raises:
            JournalUnavailableError: not in time.
        """
        timeout_s = self.request_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise self.unavailable(f"no reply within {timeout_s:g} s") from None

    async def api(
        self, subject: str, body: object, reply_type: type[T], *, timeout_s: float | None = None, again: bool = True
    ) -> T:
        """A call of the JetStream API (``STREAM.INFO.<stream>``).

        A cluster without a leader is asked again for as long as there is time. Unless the question may be put only once: then
        ``again`` is False.

        Raises:
            ApiError: the server refuses.
            JournalUnavailableError: it does not answer, or says for as long that nobody can answer now.
        """
        return await ask(self, subject, body, reply_type, timeout_s=timeout_s, again=again)

    # --- the client --------------------------------------------------------------------------------------------------------

    async def _dial(self) -> Any:  # noqa: ANN401  # nats-py's types are partly unknown
        """A connected client, within the connect timeout."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.connect_timeout_s
        self._refused.clear()
        while True:
            try:
                return await self._dial_once(deadline - loop.time())
            except (nats_errors.Error, OSError, ValueError) as error:
                if isinstance(error, ValueError) or any(words in str(error) for words in _NO_ADDRESS):
                    raise InvalidSettingError(f"{self.shown!r} cannot be a NATS server's address: {error}") from error
                # A refusal may look like a reset, when it comes too early: ask again.
                if self._refused.is_set() or loop.time() + RECONNECT_WAIT_S > deadline:
                    raise self.unavailable() from error
                await asyncio.sleep(RECONNECT_WAIT_S)

    async def _dial_once(self, timeout_s: float) -> Any:  # noqa: ANN401  # as above
        client: Any = PatientClient()
        connecting = asyncio.create_task(
            client.connect(
                servers=self.servers,
                name=self.name,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
                allow_reconnect=False,  # for now: a client that failed once is not used again
                connect_timeout=max(1, int(self.connect_timeout_s)),
                reconnect_time_wait=RECONNECT_WAIT_S,
                max_reconnect_attempts=-1,
                reconnect_to_server_handler=self._next_server,
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=MAX_PINGS,
                inbox_prefix=f"{self.inbox}.r",
            )
        )
        refused = asyncio.create_task(self._refused.wait())
        try:
            done, _ = await asyncio.wait({connecting, refused}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if connecting not in done:
                raise self.unavailable()
            connecting.result()
            client.options["allow_reconnect"] = True
            client.options["connect_timeout"] = ATTEMPT_S
            self._at = client._current_server.uri.netloc  # nats-py has a public name for it only while it is connected
            await client.subscribe(f"{self.inbox}.*", cb=self._on_reply)
        except BaseException:
            client._closed_cb = client._disconnected_cb = None  # whoever dials sees that it failed
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            with contextlib.suppress(OSError, AssertionError):  # it may not have come as far as to be closed
                await client.close()
            raise
        finally:
            refused.cancel()
        return client

    def _next_server(self, pool: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        """Which server to try next, and after how many seconds: the one that was left or failed longest ago."""
        del info
        self._left[self._at] = next(self._tokens)
        chosen = min(pool, key=lambda server: self._left.get(server.uri.netloc, 0))
        self._at = chosen.uri.netloc
        return chosen, RECONNECT_WAIT_S if chosen.reconnects else 0

    async def _on_reply(self, message: Msg) -> None:
        future = self._replies.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        if not self._refused.is_set():  # what follows a refusal says less than it
            self._last_error = str(error) or type(error).__name__
        if "authorization" in self._last_error.lower():
            self._refused.set()
        _log.debug("nats: %s", self._last_error)

    async def _on_disconnected(self) -> None:
        if not self._closing and self._ready.is_set():
            _log.warning("the connection to the journal at %s is lost", self.shown)
        self._ready.clear()
        self._fail_replies()
        for observe in self.on_disconnect:
            observe()

    async def _supervise(self) -> None:
        """Replace a client that does not find back: nats-py's attempts can end without a word, or wait for ever."""
        loop = asyncio.get_running_loop()
        well = loop.time()
        while not self._closing:
            await asyncio.sleep(SUPERVISE_S)
            client = self.client
            if not client.is_reconnecting:
                well = loop.time()
                continue
            attempts = client._reconnection_task  # nats-py has no public name for it
            if loop.time() < well + STUCK_AFTER_S and attempts is not None and not attempts.done():
                continue
            _log.warning("the client does not find back to the journal by itself; a new one is made")
            self._ready.clear()
            self._fail_replies()
            client._closed_cb = None  # it was told to give up: nobody needs to hear that
            with contextlib.suppress(nats_errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(SUPERVISE_S):
                    await client.close()
            await self._reopen()

    def _fail_replies(self) -> None:
        for future in list(self._replies.values()):
            if not future.done():
                future.set_exception(self.unavailable("the connection is lost"))
                future.exception()  # not every caller still waits

    async def _on_reconnected(self) -> None:
        self._refused.clear()
        self._start(self._readmit())

    async def _on_closed(self) -> None:
        """nats-py has given up for ever; we do not."""
        if not self._closing and self.client is not None:
            self._ready.clear()
            self._fail_replies()
            self._start(self._reopen())

    async def _reopen(self) -> None:
        """Make a new client. Only once at a time: whoever comes meanwhile finds it under way."""
        if self._reopening:
            return
        self._reopening = True
        try:
            await self._dial_again()
        finally:
            self._reopening = False

    async def _dial_again(self) -> None:
        wait_s = RECONNECT_WAIT_S
        while not self._closing:
            try:
                self.client = await self._dial()
            except JournalUnavailableError:
                await asyncio.sleep(wait_s)
                wait_s = min(MAX_REOPEN_WAIT_S, wait_s * 2)
            else:
                await self._readmit()
                return

    async def _readmit(self) -> None:
        """Check what came back, then let callers through."""
        wait_s = RECONNECT_WAIT_S
        client = self.client
        while self.check is not None and client.is_connected and client is self.client:
            try:
                await self.check()
                break
            except (JournalUnavailableError, ApiError):
                await asyncio.sleep(wait_s)
                wait_s = min(MAX_REOPEN_WAIT_S, wait_s * 2)
            except JournalError as error:
                self.break_with(error)
                break
        if client.is_connected and client is self.client and not self._closing:
            self._ready.set()
            _log.info("connected to the journal at %s again", self.shown)
            for observe in self.on_reconnect:
                observe()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.rpartition("://")
    return f"{scheme or 'nats'}://{rest.rpartition('@')[2]}"
