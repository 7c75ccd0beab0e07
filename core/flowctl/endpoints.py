"""NATS micro-services: how commands and reads reach the services. The other place, beside the JetStream journal, that knows nats.

Any NATS client can discover them (``$SRV.INFO``); several replicas of a service share its queue group.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.micro import add_service  # pyright: ignore[reportUnknownVariableType] - its kwargs are untyped
from nats.micro.request import Request as MicroRequest
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from flowctl import __version__, api
from flowctl.errors import (
    ConflictError,
    ControlPlaneUnreachableError,
    DeadlineError,
    FlowctlError,
    InvalidSpecError,
    JournalUnavailableError,
    NotFoundError,
    RefusedError,
    UserError,
)

Req = TypeVar("Req", bound=api.Request)
Handler = Callable[[Any], Awaitable[msgspec.Struct]]

OF_EACH_REPLICA: Final = frozenset({"info", "digest", "routes", "runs"})
"""What can also be asked of one replica: ``flowctl.api.<service>.<verb>.<name>``."""

ERROR_HEADER: Final = "Nats-Service-Error-Code"

_CODES: Final[tuple[tuple[type[FlowctlError], str], ...]] = (
    (NotFoundError, "404"),
    (UserError, "400"),
    (RefusedError, "412"),
    (ConflictError, "409"),
    (JournalUnavailableError, "503"),
    (DeadlineError, "504"),
)

log = logging.getLogger("flowctl.endpoints")


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it travels."""

    message: str
    place: str | None = None
    hint: str | None = None
    problems: list["Problem"] = msgspec.field(default_factory=list["Problem"])


class Endpoints:
    """The endpoints of one service. Add them, then ``start``; ``stop`` drains what is being answered."""

    def __init__(self, client: Callable[[], Client], service: str, *, name: str) -> None:
        self._client = client
        self._serving: Client | None = None
        self._service_name = service
        self._name = name
        self._handlers: dict[str, tuple[type[api.Request], Handler]] = {}
        self._service: Service | None = None

    def add(self, verb: str, request_type: type[Req], handler: Callable[[Req], Awaitable[msgspec.Struct]]) -> None:
        """Answer ``flowctl.api.<service>.<verb>`` with what ``handler`` returns; a ``FlowctlError`` travels to the caller."""
        self._handlers[verb] = (request_type, handler)

    async def start(self) -> None:
        """Begin to answer."""
        client = self._client()
        config = ServiceConfig(
            name=f"flowctl-{self._service_name}",
            version=__version__,
            description=f"flowctl's {self._service_name}",
            metadata={"instance": self._name},
            queue_group=f"flowctl-{self._service_name}",
        )
        self._service = await add_service(client, config)
        own = {f"{verb}.{self._name}": each for verb, each in self._handlers.items() if verb in OF_EACH_REPLICA}
        for verb, (request_type, handler) in (self._handlers | own).items():
            schema = msgspec.json.encode(msgspec.json.schema(request_type)).decode()
            await self._service.add_endpoint(
                EndpointConfig(
                    name=verb.replace(".", "-"),
                    subject=f"{api.API_ROOT}.{self._service_name}.{verb}",
                    handler=_answer(request_type, handler),
                    metadata={"request_schema": schema},
                )
            )
        self._serving = client

    async def follow_client(self) -> None:
        """Answer on the connection's present client, if that is another than the one so far; after each reconnection.

        A client that goes away meanwhile is not answered on: the next reconnection comes here again.
        """
        if self._serving is None or self._serving is self._client():
            return
        try:
            await self.start()
        except (nats.errors.Error, OSError) as error:
            log.warning("the endpoints of the %s are not there yet: %s", self._service_name, error)

    async def stop(self) -> None:
        """Answer no more."""
        self._serving = None
        if self._service is not None:
            await self._service.stop()
            self._service = None


def _answer(request_type: type[api.Request], handler: Handler) -> Callable[[MicroRequest], Awaitable[None]]:
    decoder = msgspec.json.Decoder(request_type)

    async def answer(message: MicroRequest) -> None:
        try:
            request = decoder.decode(message.data or b"{}")
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            await _refuse(message, UserError(f"the request is not a {request_type.__name__}: {error}"))
            return
        try:
            await message.respond(msgspec.json.encode(await handler(request)))
        except FlowctlError as error:
            await _refuse(message, error)
        except Exception:
            log.exception("the request %s failed", message.subject)
            await _refuse(message, FlowctlError(f"internal error in {message.subject}; the service's log has the details"))

    async def spawn(message: MicroRequest) -> None:
        task = asyncio.create_task(answer(message))
        _running.add(task)
        task.add_done_callback(_running.discard)

    return spawn


_running: set[asyncio.Task[None]] = set()


async def _refuse(message: MicroRequest, error: FlowctlError) -> None:
    await message.respond_error(_code(error), error.message.replace("\n", " ")[:200], data=msgspec.json.encode(_problem(error)))


def _code(error: FlowctlError) -> str:
    if isinstance(error, RefusedError) and error.refusal == "invalid":
        return "400"  # no state would allow it: the user's words are wrong
    return next((code for kind, code in _CODES if isinstance(error, kind)), "500")


def _problem(error: FlowctlError) -> Problem:
    inner = error.problems if isinstance(error, InvalidSpecError) else []
    return Problem(message=error.message, place=error.place, hint=error.hint, problems=[_problem(each) for each in inner])


Answer = TypeVar("Answer", bound=msgspec.Struct)


async def call(
    nc: Client, service: str, verb: str, request: api.Request, answer_type: type[Answer], *, timeout_s: float
) -> Answer:
    """Ask a service.

    Raises:
        ControlPlaneUnreachableError: nobody answers on that subject.
        DeadlineError: no answer within ``timeout_s`` seconds.
        FlowctlError: what the service answered.
    """
    subject = f"{api.API_ROOT}.{service}.{verb}"
    try:
        message = await nc.request(subject, msgspec.json.encode(request), timeout=timeout_s)
    except nats.errors.NoRespondersError:
        raise ControlPlaneUnreachableError(f"no {service} is running", hint="start one with `flowctl server`") from None
    except (nats.errors.TimeoutError, TimeoutError):
        raise DeadlineError(f"the {service} did not answer within {timeout_s:g} s") from None
    except (nats.errors.Error, OSError) as error:
        raise ControlPlaneUnreachableError(f"the connection to NATS failed: {error}") from error
    headers: dict[str, str] = message.headers or {}
    code = headers.get(ERROR_HEADER)
    if code is not None:
        raise _error(code, message.data)
    return msgspec.json.decode(message.data, type=answer_type)


async def replicas(nc: Client, service: str, *, timeout_s: float) -> list[str]:
    """The names of the replicas of a service that answer within ``timeout_s`` seconds, sorted.

    Raises:
        ControlPlaneUnreachableError: the connection failed.
    """
    found: set[str] = set()
    inbox = nc.new_inbox()

    async def heard(message: Msg) -> None:
        with contextlib.suppress(msgspec.MsgspecError):
            metadata = msgspec.json.decode(message.data, type=_Ping).metadata or {}
            found.add(metadata.get("instance", ""))

    try:
        subscription = await nc.subscribe(inbox, cb=heard)  # pyright: ignore[reportUnknownMemberType] - nats-py's own
        await nc.publish(f"$SRV.PING.flowctl-{service}", b"", reply=inbox)
        await asyncio.sleep(timeout_s)
        await subscription.unsubscribe()
    except (nats.errors.Error, OSError) as error:
        raise ControlPlaneUnreachableError(f"the connection to NATS failed: {error}") from error
    return sorted(found - {""})


class _Ping(msgspec.Struct):
    """What a micro-service answers to a ping, as far as it is looked at (nats.micro, ``io.nats.micro.v1.ping_response``)."""

    metadata: dict[str, str] | None = None


def _error(code: str, data: bytes) -> FlowctlError:
    try:
        problem = msgspec.json.decode(data, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem(message=data.decode(errors="replace")[:500] or f"error {code}")
    if problem.problems:
        return InvalidSpecError([UserError(each.message, place=each.place, hint=each.hint) for each in problem.problems])
    kind = next((kind for kind, known in _CODES if known == code), FlowctlError)
    return kind(problem.message, place=problem.place, hint=problem.hint)
