"""Sending a request, once, within its time. The only module that speaks HTTP."""

import asyncio
from typing import Final

import httpx

from flowctl_notify.cloudevents import Request
from flowctl_notify.decide import Answer, NoAnswer

MAX_DETAIL_BYTES: Final = 300
READ_AT_ONCE: Final = 4096


class Sender:
    """A pool of connections. Follows no redirect and reads no more of an answer than its beginning."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, limits=httpx.Limits(max_connections=100))

    async def send(self, url: str, request: Request) -> Answer | NoAnswer:
        """POST it. Whatever happens comes back as a value, without the address in it: that may hold a secret."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", url, headers=request.headers, content=request.body) as response,
            ):
                detail = b"" if response.is_success else await _beginning(response)
                text = " ".join(detail[:MAX_DETAIL_BYTES].decode(errors="replace").split())
                return Answer(response.status_code, text, _seconds(response.headers.get("retry-after", "")))
        except TimeoutError:
            return NoAnswer(f"no answer within {self._timeout_s:g} s")
        except httpx.TimeoutException:
            return NoAnswer(f"no answer within {self._timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            text = str(error)
            return NoAnswer(f"{type(error).__name__}{f': {text}' if text and url not in text else ''}")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


async def _beginning(response: httpx.Response) -> bytes:
    async for chunk in response.aiter_bytes(READ_AT_ONCE):
        return chunk
    return b""


def _seconds(text: str) -> float | None:
    """Of ``Retry-After`` in seconds; a date is not waited for."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
