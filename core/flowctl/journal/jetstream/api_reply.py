"""What the JetStream API answers: what was asked for, or a refusal with its code."""

from typing import TypeVar

import msgspec

from flowctl.errors import JournalError

T = TypeVar("T")


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
