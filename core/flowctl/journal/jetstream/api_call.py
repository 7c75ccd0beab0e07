"""Calls of the JetStream API: how it is asked, and what it answers, which is what was asked for or a refusal with its code."""

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from nats.aio.msg import Msg

from flowctl.errors import JournalError

if TYPE_CHECKING:
    from flowctl.journal.jetstream.connection import Connection

T = TypeVar("T")

NO_RESPONDERS: Final = "503"
NOBODY_NOW: Final = 503
SWITCHED_OFF: Final = (10039, 10076)
"""JetStream is not enabled for the account or the server (``errors.json`` of nats-server): waiting does not change that."""
ASK_AGAIN_S: Final = 0.2
ANSWER_S: Final = 1.0
"""After so long without an answer the question is put once more; an answer to the first still counts."""


class ApiError(JournalError):
    """The JetStream API refused a request. ``code`` is the HTTP-like status, ``err_code`` the server's own (10071)."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.code = code
        self.err_code = err_code


class _ErrorBody(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _ErrorReply(msgspec.Struct):
    error: _ErrorBody | None = None


def decode_reply(data: bytes, reply_type: type[T]) -> T:
    """A reply of the JetStream API.

    Raises:
        ApiError: it is an error.
    """
    error = msgspec.json.decode(data, type=_ErrorReply).error
    if error is not None:
        raise ApiError(error.code, error.err_code, error.description)
    return msgspec.json.decode(data, type=reply_type)


async def ask(
    connection: "Connection", subject: str, body: object, reply_type: type[T], *, timeout_s: float | None, again: bool
) -> T:
    """See ``Connection.api``.

    A cluster without a leader says so or says nothing, and what it was asked then it never answers.
    """
    data = b"" if body is None else msgspec.json.encode(body)
    timeout_s = connection.request_timeout_s if timeout_s is None else timeout_s
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    asked: set[asyncio.Future[Msg]] = set()
    try:
        while True:
            asked.add(await connection.send(f"$JS.API.{subject}", data))
            left_s = max(0.0, deadline - loop.time())
            answered, _ = await asyncio.wait(
                asked, timeout=min(ANSWER_S, left_s) if again else left_s, return_when=asyncio.FIRST_COMPLETED
            )
            for future in answered:
                asked.remove(future)
                try:
                    return decode_reply(reply_data(future.result(), connection), reply_type)
                except ApiError as error:
                    if error.code != NOBODY_NOW:
                        raise
                    if error.err_code in SWITCHED_OFF or loop.time() + ASK_AGAIN_S > deadline:
                        raise connection.unavailable(error.message) from error
            if loop.time() >= deadline:
                raise connection.unavailable(f"no reply within {timeout_s:g} s")
            if answered:
                await asyncio.sleep(ASK_AGAIN_S)
    finally:
        for future in asked:
            future.cancel()


def reply_data(message: Msg, connection: "Connection") -> bytes:
    """The data of a reply.

    Raises:
        JournalUnavailableError: it says that nobody listens.
    """
    if message.headers and message.headers.get("Status") == NO_RESPONDERS:
        raise connection.unavailable("nobody listens there (no JetStream, or no leader)")
    return message.data
