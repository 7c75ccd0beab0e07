"""An event loop without real time or input: one order of steps, a clock that jumps, processes that die or stand still in between.

Everything that runs belongs to a ``Process`` (by a context variable, so that what it starts belongs to it too) or to the world
itself. Between any two steps a process can be killed (its tasks never run again), paused and resumed (what came meanwhile waits).
"""

# A loop has to touch the insides of asyncio's handles and tasks.
# pyright: reportPrivateUsage=false, reportIncompatibleMethodOverride=false

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Literal, TypeVar

START_NS: Final = 1_700_000_000_000_000_000
_S: Final = 1_000_000_000

T = TypeVar("T")

OWNER: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("owner", default=None)


class Loop(asyncio.BaseEventLoop):
    """See the module. ``now_ns`` is the simulated Unix time; ``errors`` are exceptions that nobody handled."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.steps = 0
        self.errors: list[str] = []
        self._steps: deque[asyncio.Handle] = deque()
        self._later: list[tuple[int, int, asyncio.Handle]] = []
        self._ties = itertools.count()

    def run_until(self, done: Callable[[], bool], end_ns: int) -> bool:
        """Run, jumping from one moment to the next, until ``done`` or nothing happens before ``end_ns``; whether it is done.

        ``done`` is asked whenever time is about to go on.
        """
        steps, later = self._steps, self._later
        with self.entered():
            while True:
                while steps:
                    handle = steps.popleft()
                    if handle._cancelled:
                        continue
                    owner = handle._context.get(OWNER)
                    if owner is None or owner.takes(handle):
                        self.steps += 1
                        handle._run()
                if done():
                    return True
                if not later or later[0][0] > end_ns:
                    self.now_ns = max(self.now_ns, end_ns)
                    return False
                at_ns, _, handle = heapq.heappop(later)
                if not handle._cancelled:
                    self.now_ns = max(self.now_ns, at_ns)
                    steps.append(handle)

    @contextlib.contextmanager
    def entered(self) -> Generator[None]:
        """Be the loop that asyncio finds."""
        before = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self)
        try:
            yield
        finally:
            asyncio.events._set_running_loop(before)

    def at(self, delay_s: float, callback: Callable[..., object], *args: object) -> None:
        """Have the world, no process, call this later."""
        handle = asyncio.Handle(callback, args, self, _WORLD)
        heapq.heappush(self._later, (self.now_ns + int(delay_s * _S), next(self._ties), handle))

    # --- what asyncio asks of a loop -----------------------------------------------------------------------------------------

    def time(self) -> float:
        return (self.now_ns - START_NS) / _S

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._steps.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._later, (START_NS + round(when * _S), next(self._ties), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        context = context or contextvars.copy_context()
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        owner = context.get(OWNER)
        if owner is not None:
            owner.tasks.append(task)
        return task

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Threads would make the order of steps a matter of chance: it is done here and now."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to who waits
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        message = str(context.get("message"))
        if "never retrieved" not in message and "destroyed" not in message:
            self.errors.append(f"{message}: {context.get('exception')!r}")

    def close(self) -> None:
        """Nothing more will run."""
        self._steps.clear()
        self._later.clear()
        super().close()


class Process:
    """Something with a life of its own: a service, an agent, a program. ``on_end`` is called when it is killed."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.name = name
        self.state: Literal["running", "paused", "dead"] = "running"
        self.tasks: list[asyncio.Task[Any]] = []
        self.steps_left: int | None = None
        self.killed: Callable[[], None] = _nothing
        self._loop = loop
        self._waiting: list[asyncio.Handle] = []
        self._context = contextvars.copy_context()
        self._context.run(OWNER.set, self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in this process."""
        return self._loop.create_task(work, context=self._context.copy())

    def run(self, call: Callable[[], object]) -> None:
        """Call something in this process: what it wakes belongs to the process."""
        self._loop.call_soon(call, context=self._context)

    def takes(self, handle: asyncio.Handle) -> bool:
        """Whether the process takes this step now. A paused one takes it later, a dead one never."""
        if self.state == "running":
            if self.steps_left is None:
                return True
            self.steps_left -= 1
            if self.steps_left >= 0:
                return True
            self.kill()
        elif self.state == "paused":
            self._waiting.append(handle)
        return False

    def die_after(self, steps: int) -> None:
        """Be killed before the step after so many more."""
        self.steps_left = steps

    def pause(self) -> None:
        """SIGSTOP."""
        if self.state == "running":
            self.state = "paused"

    def resume(self) -> None:
        """SIGCONT."""
        if self.state == "paused":
            self.state = "running"
            self._loop._steps.extend(self._waiting)
            self._waiting.clear()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs again. What Python cleans up behind it reaches nobody."""
        if self.state == "dead":
            return
        self.state = "dead"
        self._waiting.clear()
        with self._loop.entered():
            self._context.copy().run(self._bury)
        killed, self.killed = self.killed, _nothing
        killed()

    def _bury(self) -> None:
        for task in self.tasks:  # the list grows while ``finally`` blocks run
            if not task.done():
                task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
                _close(task.get_coro())
        self.tasks.clear()


def _close(coroutine: Any) -> None:
    for _ in range(10):
        try:
            coroutine.close()
        except RuntimeError:  # it awaited something in a ``finally``
            continue
        return


def _nothing() -> None:
    pass


class LoopClock:
    """A process' clock: ``skew_s`` is how wrong its host's wall clock is; monotonic time starts anywhere."""

    def __init__(self, loop: Loop, *, skew_s: float = 0.0) -> None:
        self._loop = loop
        self._skew_ns = int(skew_s * _S)

    def monotonic_ns(self) -> int:
        """See ``Clock``."""
        return self._loop.now_ns - START_NS // 2

    def wall_ns(self) -> int:
        """See ``Clock``."""
        return self._loop.now_ns + self._skew_ns

    async def sleep(self, seconds: float) -> None:
        """See ``Clock``."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_later(seconds, _wake, future)
        await future


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


_WORLD = contextvars.Context()
