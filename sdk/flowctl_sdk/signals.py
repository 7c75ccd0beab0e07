"""Waking a task of the event loop: several reasons, one waiter, no wake-up lost. And doing without waking one."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, NamedTuple, cast

# Part of asyncio's interface for those who extend it (docs.python.org, "Extending"); its type stubs leave them out.
_enter_task: Final = cast("Any", asyncio.tasks)._enter_task  # pyright: ignore[reportPrivateUsage]
_leave_task: Final = cast("Any", asyncio.tasks)._leave_task  # pyright: ignore[reportPrivateUsage]


class Signal:
    """``set`` wakes the one waiter, now or at its next ``wait``."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter."""
        self._event.set()

    def clear(self) -> None:
        """Forget a wake-up that nobody has taken."""
        self._event.clear()

    async def wait(self) -> None:
        """Until ``set`` was called since the last time."""
        await self._event.wait()
        self._event.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; whoever may change it calls ``set``."""
        while not condition():
            await self.wait()


class Bell:
    """``ring`` wakes everybody who waits for a condition to become true."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Let the waiters look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; whoever may change it rings."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter


class Place(NamedTuple):
    """A task and the context that it runs in."""

    task: "asyncio.Task[Any]"
    context: contextvars.Context


class Begun(Awaitable[None]):
    """A coroutine whose first step is taken at once, in whoever makes this; a task that awaits this does the rest.

    For work that mostly ends, or gets as far as it can, in its first step: waking a task for it costs a round of the loop, which
    on a processor that has just been woken itself takes a tenth of a millisecond. With ``place``, of a task that waits meanwhile
    and will do the rest, an author's code cannot tell: its ``asyncio.timeout`` and context variables are that task's.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], place: Place | None = None) -> None:
        self._coroutine = coroutine
        self._yielded: Any = None
        self._error: BaseException | None = None
        # Whether it has come to its end, well or not.
        self.done = False
        current = asyncio.current_task()
        if place is None or current is None:
            self._begin()
            return
        loop = asyncio.get_running_loop()
        _leave_task(loop, current)
        _enter_task(loop, place.task)
        try:
            place.context.run(self._begin)
        finally:
            _leave_task(loop, place.task)
            _enter_task(loop, current)

    @property
    def failed(self) -> bool:
        """Whether awaiting this raises at once."""
        return self._error is not None

    def _begin(self) -> None:
        try:
            self._yielded = self._coroutine.send(None)
        except StopIteration:
            self.done = True
        except BaseException as error:  # noqa: BLE001 - raised to whoever awaits this
            self.done = True
            self._error = error

    def __await__(self) -> Generator[Any, Any, None]:
        """The rest of it."""
        if self._error is not None:
            raise self._error
        coroutine, yielded = self._coroutine, self._yielded
        while not self.done:
            thrown: BaseException | None = None
            sent: Any = None
            try:
                sent = yield yielded
            except BaseException as error:  # noqa: BLE001 - a cancellation, for the coroutine
                thrown = error
            try:
                yielded = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
            except StopIteration:
                self.done = True
