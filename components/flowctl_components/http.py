"""Sink ``http``: posts events to a URL.

Configuration::

    url: https://example.org/hook
    method: POST                    # or PUT, PATCH
    headers: {Authorization: "Bearer ${env:TOKEN}"}
    batch: false                    # true: one request for many events, with a JSON array as its body
    max_events: 500                 # batch only: events in one request at most
    concurrency: 1                  # without batch: requests at a time; above 1 the order is not kept
    envelope: false                 # true: {id, time, type, metadata, payload} in place of the payload
    timeout_s: 10                   # for one request
    attempts: 8                     # tries of one request before the sink fails
    backoff: {initial_s: 0.2, max_s: 30, multiplier: 2}

An answer of 2xx acknowledges. 408, 425, 429, 5xx and a connection that fails are tried again, after the time that
``Retry-After`` asks for or after the back-off; any other answer is an error of the events, with the first 200 characters of
the body. Redirects are not followed.

Guarantee: at least once. A request carries ``Idempotency-Key``: the event's id, or for several a digest of their ids, the
same whenever the same events are sent again, so that the receiver can tell.
"""

import asyncio
import hashlib
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import httpx
from msgspec import Meta, field

from flowctl.errors import ComponentError
from flowctl.spec.model import Backoff
from flowctl_components.config import Config, invalid, read_config
from flowctl_components.line import envelope_line, payload_line
from flowctl_sdk import Context, Event, Sink, run

_TRY_AGAIN: Final = {408, 425, 429}
_LONGEST_RETRY_AFTER_S: Final = 300.0
_SHOWN: Final = 200


class HttpConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    url: str
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    batch: bool = False
    max_events: Annotated[int, Meta(ge=1, le=100_000)] = 500
    concurrency: Annotated[int, Meta(ge=1, le=1_000)] = 1
    envelope: bool = False
    timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 10.0
    attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 8
    backoff: Backoff = Backoff(initial_s=0.2)


class Http(Sink):
    """Posts events to a URL."""

    _client: httpx.AsyncClient | None = None

    async def open(self, ctx: Context) -> None:
        """Read the configuration."""
        self._ctx = ctx
        self._config = config = read_config(ctx, HttpConfig)
        parts = urlsplit(config.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise invalid(ctx, "url", f"expected http://… or https://…, found {config.url[:100]!r}")
        # In messages without user, password and query, which may be secret.
        self._target = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        try:
            limits = httpx.Limits(max_connections=config.concurrency)
            self._client = httpx.AsyncClient(headers=config.headers, timeout=config.timeout_s, limits=limits)
        except (ValueError, httpx.InvalidURL) as error:
            raise invalid(ctx, "headers", f"cannot be sent: {error}") from error

    async def write(self, events: list[Event]) -> None:
        """Returns when all of them are answered with 2xx."""
        config = self._config
        if config.batch:
            for start in range(0, len(events), config.max_events):
                await self._send_batch(events[start : start + config.max_events])
        elif config.concurrency == 1:
            for event in events:
                await self._send_one(event)
        else:
            limit = asyncio.Semaphore(config.concurrency)

            async def send(event: Event) -> None:
                async with limit:
                    await self._send_one(event)

            async with asyncio.TaskGroup() as group:
                for event in events:
                    group.create_task(send(event))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _send_one(self, event: Event) -> None:
        body = envelope_line(event) if self._config.envelope else payload_line(event.payload)
        await self._request(body, event.id)

    async def _send_batch(self, events: list[Event]) -> None:
        lines = map(envelope_line, events) if self._config.envelope else (payload_line(event.payload) for event in events)
        digest = hashlib.sha256("\n".join(event.id for event in events).encode()).hexdigest()
        await self._request(b"[" + b",".join(lines) + b"]", digest)

    async def _request(self, body: bytes, key: str) -> None:
        """Send until it is answered with 2xx.

        Raises:
            ComponentError: if the answer is one that another try cannot change, or the attempts are spent.
        """
        config, client = self._config, self._client
        if client is None:
            raise RuntimeError("write() before open()")
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        for attempt in range(config.attempts):
            asked_s: float | None = None
            try:
                answer = await client.request(config.method, config.url, content=body, headers=headers)
            except httpx.TransportError as error:
                problem = f"{self._target}: {type(error).__name__}: {str(error) or 'no answer'}"
            else:
                if answer.is_success:
                    return
                problem = f"{self._target} answered {answer.status_code}: {answer.text[:_SHOWN]!r}"
                if answer.status_code not in _TRY_AGAIN and answer.status_code < 500:
                    raise ComponentError(problem)
                asked_s = retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC))
            if attempt + 1 == config.attempts:
                raise ComponentError(f"{problem} (after {config.attempts} attempts)")
            wait_s = asked_s if asked_s is not None else backoff_s(config.backoff, attempt, random.random())  # noqa: S311
            self._ctx.counter("retries")
            self._ctx.log.warning("%s; trying again in %.1f s", problem, wait_s)
            await asyncio.sleep(wait_s)


def backoff_s(backoff: Backoff, attempt: int, chance: float) -> float:
    """How long to wait after the try number ``attempt`` (from 0); ``chance`` in 0..1 spreads it over its upper half."""
    exponent = min(attempt, 64)
    return min(backoff.max_s, backoff.initial_s * backoff.multiplier**exponent) * (0.5 + chance / 2)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """What a ``Retry-After`` header asks for (RFC 9110, 10.2.3: seconds or a date), at most five minutes; None if nothing."""
    if value is None:
        return None
    if value.strip().isdigit():
        return min(float(value), _LONGEST_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return min(max(0.0, (date - now).total_seconds()), _LONGEST_RETRY_AFTER_S)


if __name__ == "__main__":
    run(Http())
