"""Calling the author's code: on the loop, awaited or in a thread, with what ``on_error`` says when it raises.

A ``def`` that is quick gets a whole batch in one go, with nothing of ours between two calls. One that is slow is interrupted
every few milliseconds so that heartbeats, acks and other streams go on.
"""

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from flowctl.spec.model import Backoff, OnError
from flowctl_sdk.event import Event
from flowctl_sdk.faults import ComponentFailedError, EventFailedError

SLICE_NS: Final = 5_000_000
MAX_SLICE: Final = 4_096
# A single call that keeps the loop for this long is worth a warning.
SLOW_NS: Final = 1_000_000_000

_log = logging.getLogger("flowctl.component")


class Keeper(Protocol):
    """Where events go that are given up on."""

    async def keep(self, event: Event, error: str, attempts: int) -> None:
        """Return when the event is safe."""
        ...


class BatchFailedError(Exception):
    """A call with several events raised, and it has to be found out on which of them: call again with one at a time."""


class Failures:
    """What becomes of a call that raised: another try after a pause, the event put aside, or the end of the instance.

    ``total`` counts what was raised, ``put_aside_total`` the events that were put aside with ``keeper``.
    """

    def __init__(self, on_error: OnError, keeper: Keeper | None = None) -> None:
        self._on_error = on_error
        self.keeper = keeper
        self.total = 0
        self.put_aside_total = 0

    @property
    def puts_aside(self) -> bool:
        """Whether an event that fails for good is put aside."""
        return self._on_error.action == "dead_letter"

    async def judge(self, events: Sequence[Event], attempt: int, error: Exception) -> bool:
        """After try number ``attempt`` (the first is 0) of one piece of work: whether to try again. False: it was put aside.

        Raises:
            EventFailedError: if the instance is to end.
        """
        what = f"event {events[0].id}" + (f" to {events[-1].id}" if len(events) > 1 else "")
        if not self.puts_aside:
            await self.pause(what, attempt, error)
            return True
        self.total += 1
        if attempt + 1 < self._on_error.attempts:
            await self._wait(what, attempt, error)
            return True
        whose = "its window failed: " if len(events) > 1 else ""
        for event in events:
            await self.put_aside(event, f"{whose}{type(error).__name__}: {error}", attempt + 1)
        return False

    async def put_aside(self, event: Event, error: str, attempts: int) -> None:
        """Keep an event as a dead letter; returns when that is on disk.

        Raises:
            EventFailedError: if it cannot be kept.
        """
        if self.keeper is None:
            raise EventFailedError(f"event {event.id} failed, and there is no registry to keep it as a dead letter: {error}")
        _log.warning("event %s failed after %d attempts and becomes a dead letter: %s", event.id, attempts, error)
        await self.keeper.keep(event, error, attempts)
        self.put_aside_total += 1

    async def pause(self, what: str, attempt: int, error: Exception) -> None:
        """Wait before try number ``attempt + 1`` (the first try is 0).

        Raises:
            EventFailedError: if there is to be none.
        """
        self.total += 1
        policy = self._on_error
        tries = f" after {attempt + 1} attempts" if attempt else ""
        if policy.action != "retry" or attempt >= policy.attempts:
            raise EventFailedError(f"{what} failed{tries}: {type(error).__name__}: {error}") from error
        await self._wait(what, attempt, error)

    async def _wait(self, what: str, attempt: int, error: Exception) -> None:
        delay = backoff_s(self._on_error.backoff, attempt, random.random())  # noqa: S311
        _log.warning(
            "%s failed (attempt %d), trying again in %.2f s: %s: %s", what, attempt + 1, delay, type(error).__name__, error
        )
        await asyncio.sleep(delay)


def backoff_s(backoff: Backoff, attempt: int, chance: float) -> float:
    """Seconds before the try after try ``attempt`` (from 0): exponential, at most ``max_s``, between half and all of it."""
    try:
        full = min(backoff.max_s, backoff.initial_s * backoff.multiplier**attempt)
    except OverflowError:
        full = backoff.max_s
    return full * (0.5 + chance / 2)


class EachCall:
    """Calls a function with one event at a time.

    ``stores`` says that it is a sink's: what it returns means nothing, unless that has still to be awaited.
    """

    def __init__(self, function: Callable[[Any], Any], failures: Failures, *, blocking: bool, stores: bool = False) -> None:
        self._function = function
        self._failures = failures
        self._is_async = _is_async(function)
        self._blocking = blocking
        self._stores = stores
        self._slice = 32
        self._warned = False

    async def __call__(self, events: list[Event]) -> Sequence[object]:
        """What it returned, for each event; None for one that was put aside.

        Raises:
            EventFailedError: if the instance is to end because of an event.
            ComponentFailedError: if it says so itself.
        """
        results: list[object] = []
        attempt, failed = 0, -1
        while len(results) < len(events):
            failure = await self._called(events, results)
            if self._stores and results.count(None) < len(results):
                failure = await self._finished(results) or failure
            if failure is not None:
                # ``results`` holds what was returned before: the next one is the event that failed.
                attempt = attempt + 1 if failed == len(results) else 0
                failed = len(results)
                if not await self._failures.judge([events[failed]], attempt, failure):
                    results.append(None)
        return results

    async def _called(self, events: list[Event], results: list[object]) -> Exception | None:
        """Call with those events that have no result yet, up to the first that fails; returns what that raised."""
        try:
            if self._is_async:
                await self._call_async(events, results)
            elif self._blocking:
                rest = events[len(results) :]
                await asyncio.to_thread(results.extend, map(self._function, rest))
            else:
                await self._call(events, results)
        except ComponentFailedError:
            raise
        except Exception as error:  # noqa: BLE001 - the author's code may raise anything
            return error
        return None

    async def _finished(self, results: list[object]) -> Exception | None:
        """Await what a ``def`` returned that is async underneath: until then its event is not stored.

        Returns what the first that fails raises; ``results`` then ends before it.
        """
        if any(hasattr(kind, "__await__") for kind in set(map(type, results))):
            for place, result in enumerate(results):
                if not inspect.isawaitable(result):
                    continue
                try:
                    await result
                except ComponentFailedError:
                    raise
                except Exception as error:  # noqa: BLE001 - the author's code may raise anything
                    for later in filter(inspect.iscoroutine, results[place + 1 :]):
                        later.close()
                    del results[place:]
                    return error
                # Nothing is awaited twice.
                results[place] = None
        results[:] = [None] * len(results)
        return None

    async def _call_async(self, events: list[Event], results: list[object]) -> None:
        function = self._function
        append = results.append
        rest = events[len(results) :] if results else events
        started = time.monotonic_ns()
        for number, event in enumerate(rest):
            append(await function(event))
            # A coroutine that never really waits would keep the loop just as a function does.
            if not number & 63 and time.monotonic_ns() - started > SLICE_NS:
                await asyncio.sleep(0)
                started = time.monotonic_ns()

    async def _call(self, events: list[Event], results: list[object]) -> None:
        function = self._function
        while True:
            start = len(results)
            part = events[start : start + self._slice] if start or len(events) > self._slice else events
            started = time.monotonic_ns()
            results.extend(map(function, part))
            elapsed = time.monotonic_ns() - started
            self._slice = max(1, min(MAX_SLICE, 2 * len(part), SLICE_NS * len(part) // max(1, elapsed)))
            if elapsed > SLOW_NS and not self._warned and len(part) == 1:
                self._warned = True
                _log.warning("one call took %.1f s and held up everything else: declare it with blocking=True", elapsed / 1e9)
            if len(results) == len(events):
                return
            await asyncio.sleep(0)


class BatchCall:
    """Calls a function with a list of events; ``whole`` says that these are one piece of work, and fail together."""

    def __init__(self, function: Callable[[Any], Any], failures: Failures, *, blocking: bool, whole: bool = False) -> None:
        self._function = function
        self._failures = failures
        self._is_async = _is_async(function)
        self._blocking = blocking
        self._whole = whole
        self._kept_ns = 0
        self._warned = False

    async def __call__(self, events: list[Event]) -> object:
        """What it returned; nothing for what was put aside.

        Raises:
            BatchFailedError: it raised on several events, and failing ones are to be put aside.
            EventFailedError: if the instance is to end because of an event.
            ComponentFailedError: if it says so itself.
        """
        attempt = 0
        while True:
            try:
                if self._is_async:
                    return await self._function(events)
                result = await asyncio.to_thread(self._function, events) if self._blocking else await self._call(events)
                # A ``def`` may be async underneath.
                return await result if inspect.isawaitable(result) else result
            except ComponentFailedError:
                raise
            except Exception as error:
                if self._failures.puts_aside and len(events) > 1 and not self._whole:
                    raise BatchFailedError from error
                if not await self._failures.judge(events, attempt, error):
                    return []
                attempt += 1

    async def _call(self, events: list[Event]) -> object:
        """Call on the loop, and let others have it once calls have kept it for long enough."""
        started = time.monotonic_ns()
        result = self._function(events)
        elapsed = time.monotonic_ns() - started
        if elapsed > SLOW_NS and not self._warned:
            self._warned = True
            _log.warning(
                "one call with %d events took %.1f s and held up everything else: declare it with blocking=True",
                len(events),
                elapsed / 1e9,
            )
        self._kept_ns += elapsed
        if self._kept_ns > SLICE_NS:
            self._kept_ns = 0
            await asyncio.sleep(0)
        return result


def _is_async(function: Callable[[Any], Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
