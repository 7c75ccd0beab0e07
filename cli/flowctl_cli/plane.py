"""The way into the control plane: which NATS server, one connection, questions to the services with a deadline each."""

import asyncio
import contextlib
import getpass
import os
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from flowctl import api, api_notify, paths
from flowctl.errors import ControlPlaneUnreachableError, DeadlineError, JournalUnavailableError
from flowctl.journal.store import Store
from flowctl_cli import server_record
from flowctl_cli.journal_import import import_journal, wants_websockets
from flowctl_cli.session import Session

Answer = TypeVar("Answer", bound=msgspec.Struct)


class Plane(Protocol):
    """A connection to the control plane."""

    @property
    def store(self) -> Store:
        """The journal and the logs."""
        ...

    async def ask(self, service: str, verb: str, request: api.Request, answer: type[Answer]) -> Answer:
        """What a service answers.

        Raises:
            ControlPlaneUnreachableError: the service does not run.
            DeadlineError: it does not answer in time.
            FlowctlError: it refuses.
        """
        ...

    async def infos(self, service: str) -> list[api.Info]:
        """How each replica of a service is."""
        ...

    async def ask_everybody(self, service: str, verb: str, request: api.Request, answer: type[Answer]) -> list[Answer]:
        """What every replica of a service answers, nothing if none runs. Raises as ``ask`` does otherwise."""
        ...


class NatsPlane:
    """See ``Plane``; over one NATS connection."""

    def __init__(self, store: Store, client: Callable[[], Any], timeout_s: float) -> None:
        self._store = store
        self._client = client
        self._timeout_s = timeout_s

    @property
    def store(self) -> Store:
        """See ``Plane``."""
        return self._store

    async def ask(self, service: str, verb: str, request: api.Request, answer: type[Answer]) -> Answer:
        """See ``Plane``.

        One replica may hang or the journal be without a leader for a while: what may be asked twice is asked again, for as long
        as there is time.
        """
        from flowctl.endpoints import call

        loop = asyncio.get_running_loop()
        begun = loop.time()
        request = signed(request)
        attempt_s = self._timeout_s if isinstance(request, ONCE) else ATTEMPT_S
        while True:
            left_s = begun + self._timeout_s - loop.time()
            try:
                return await call(self._client(), service, verb, request, answer, timeout_s=min(attempt_s, max(left_s, 0.05)))
            except ControlPlaneUnreachableError:
                if isinstance(request, ONCE) or loop.time() > begun + min(ABSENT_S, self._timeout_s):
                    raise
            except (DeadlineError, JournalUnavailableError) as error:
                if isinstance(request, ONCE) or loop.time() + AGAIN_S > begun + self._timeout_s:
                    if isinstance(error, JournalUnavailableError):
                        raise
                    raise DeadlineError(f"the {service} did not answer within {self._timeout_s:g} s") from None
            await asyncio.sleep(AGAIN_S)

    async def infos(self, service: str) -> list[api.Info]:
        """How each replica of a service is, by name; those that hang say nothing."""
        from flowctl.endpoints import call, replicas

        names = await replicas(self._client(), service, timeout_s=min(REPLICAS_S, self._timeout_s))
        asked = (
            call(self._client(), service, f"info.{name}", api.InfoRequest(), api.Info, timeout_s=ATTEMPT_S) for name in names
        )
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [each for each in found if isinstance(each, api.Info)]

    async def ask_everybody(self, service: str, verb: str, request: api.Request, answer: type[Answer]) -> list[Answer]:
        """See ``Plane``."""
        from flowctl.endpoints import call, replicas

        names = await replicas(self._client(), service, timeout_s=min(REPLICAS_S, self._timeout_s))
        asked = (call(self._client(), service, f"{verb}.{name}", request, answer, timeout_s=self._timeout_s) for name in names)
        return list(await asyncio.gather(*asked))


COMMANDS: Final = (
    api.Submit, api.Stop, api.RestartInstances, api.Scale, api.RedriveLetters, api.DrainHost, api.UndrainHost
)  # fmt: skip
ONCE: Final = (api.RestartInstances, api.RedriveLetters, api_notify.RedriveNotices, api_notify.TryRoutes)
"""What does more when it is asked twice."""
ATTEMPT_S: Final = 3.0
AGAIN_S: Final = 0.2
ABSENT_S: Final = 1.0
"""So long a service may have nobody who answers: its last replica may be on its way back."""
REPLICAS_S: Final = 1.0


def signed(request: api.Request) -> api.Request:
    """The request with who asks (``cli/alice``) and, if it changes something, a name for all that comes of it."""
    actor = f"cli/{_user()}" if request.actor == "cli" else request.actor
    named = request.correlation or not isinstance(request, COMMANDS)
    return msgspec.structs.replace(request, actor=actor, correlation=request.correlation if named else uuid.uuid4().hex)


def _user() -> str:
    """The login name, in letters that a header may hold."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in a container
        name = str(os.getuid())
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-@") else "_" for letter in name)[:64]


@contextlib.asynccontextmanager
async def opened(session: Session, *, timeout_s: float, offline: bool = False) -> AsyncGenerator[Plane]:
    """Connect to the control plane.

    With ``offline`` and no server running, the state directory's own NATS server is started for as long as this lasts: what
    was recorded can be read when nothing runs.

    Raises:
        ControlPlaneUnreachableError: nothing runs, or nothing answers.
        InvalidSettingError: the state directory cannot be read.
    """
    async with contextlib.AsyncExitStack() as stack:
        url = nats_url(session)
        if not url and offline and has_store(session):
            url = await stack.enter_async_context(_own_nats(session))
        if not url:
            raise ControlPlaneUnreachableError(
                f"no flowctl server runs for the state directory {session.state_dir}",
                hint="start one with `flowctl server` or `flowctl up`, or name a NATS server with --nats",
            )
        yield await stack.enter_async_context(_connected(url, timeout_s))


def nats_url(session: Session) -> str:
    """The NATS server that is meant: the one that was named, else that of the state directory's server; empty if none runs.

    Raises:
        InvalidSettingError: the state directory cannot be read.
    """
    if session.nats:
        return session.nats
    record = server_record.read_record(session.state_dir)
    if record is not None:
        return record.nats_url
    from flowctl.journal.embedded import discover

    found = discover(paths.nats_dir(session.state_dir))
    return found.url if found is not None else ""


def has_store(session: Session) -> bool:
    """Whether the state directory holds a NATS server's store.

    Raises:
        InvalidSettingError: it cannot be read.
    """
    with server_record.reading(session.state_dir):
        return (paths.nats_dir(session.state_dir) / "jetstream").is_dir()


@contextlib.asynccontextmanager
async def _connected(url: str, timeout_s: float) -> AsyncGenerator[Plane]:
    import_journal(websockets=wants_websockets(url))
    from flowctl.journal.jetstream import JetStreamStore

    try:
        # The services have made sure that the server keeps what it acknowledges; commands only read and ask.
        store = await JetStreamStore.connect(
            url,
            name=f"flowctl-cli-{os.getpid()}",
            connect_timeout_s=min(timeout_s, 5.0),
            request_timeout_s=timeout_s,
            create=False,
            assume_synced=True,
        )
    except JournalUnavailableError as error:
        raise ControlPlaneUnreachableError(
            f"the control plane cannot be reached: {error.message}", hint=error.hint or "`flowctl doctor` says more"
        ) from error
    try:
        yield NatsPlane(store, lambda: store.nc, timeout_s)
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _own_nats(session: Session) -> AsyncGenerator[str]:
    from flowctl.journal.embedded import EmbeddedNats

    nats = EmbeddedNats(paths.nats_dir(session.state_dir))
    await nats.start()
    try:
        yield nats.url
    finally:
        await nats.stop()
