"""What an author writes: a class of one of these three kinds, or a function under the decorator of the same name."""

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, TypeVar, overload

from flowctl_sdk.context import Checkpoint, Context
from flowctl_sdk.event import Event
from flowctl_sdk.windows import Window

Kind = Literal["source", "processor", "sink"]
Emitted = AsyncIterable[Any] | Iterable[Any]
F = TypeVar("F", bound=Callable[..., Any])


class Component:
    """What the three kinds have in common. ``name`` is used when a component runs on its own."""

    kind: ClassVar[Kind]
    blocking: bool = False

    @property
    def name(self) -> str:
        """The class's or function's name."""
        return type(self).__name__

    @property
    def description(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(type(self)) or "").partition("\n")[0]

    async def open(self, ctx: Context) -> None:
        """Get ready: connect, read ``ctx.config``. An error here fails the instance."""

    async def close(self) -> None:
        """Let go of what ``open`` took. Also called after a failure."""


class Source(Component):
    """Emits events."""

    kind = "source"

    def events(self) -> Emitted:
        """The events from ``ctx.resume_at`` on: an async generator, or a plain one, which runs in a thread of its own.

        Each is bytes, str, a dict or list (JSON) or an ``Event``. Positions count from ``ctx.resume_at`` unless an ``Event``
        gives one; they must grow.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define events()")

    async def committed(self, checkpoint: Checkpoint) -> None:
        """Everything up to the checkpoint is in every sink, and that is recorded."""


class Processor(Component):
    """Turns events into others.

    ``process`` may be ``def`` or ``async def``; with ``batch = True`` it takes and returns lists. ``blocking = True`` runs it in
    a thread, for code that waits (a database driver, a file system); otherwise a ``def`` runs on the event loop: fastest. With
    ``window`` it takes the list of a window's events and returns what comes of the whole window; ``open`` may still set it.
    """

    kind = "processor"
    batch: bool = False
    window: Window | None = None

    def process(self, event: Any, /) -> Any:  # noqa: ANN401 - the author's types
        """Return None (filtered), a payload, an ``Event``, or a list of those."""
        raise NotImplementedError(f"{type(self).__name__} does not define process()")


class Sink(Component):
    """Puts events where they are wanted."""

    kind = "sink"

    async def write(self, events: list[Event]) -> None:
        """Store these events; they are acknowledged when this returns, so they must be durable by then."""
        raise NotImplementedError(f"{type(self).__name__} does not define write()")


class FunctionSource(Source):
    """A source made of a generator function of the context."""

    def __init__(self, function: Callable[[Context], Emitted]) -> None:
        self.function = function
        self._ctx: Context | None = None

    def __call__(self, ctx: Context) -> Emitted:
        """The function itself."""
        return self.function(ctx)

    @property
    def name(self) -> str:
        """See ``Component``."""
        return _name(self.function)

    @property
    def description(self) -> str:
        """See ``Component``."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    async def open(self, ctx: Context) -> None:
        """See ``Component``."""
        self._ctx = ctx

    def events(self) -> Emitted:
        """See ``Source``."""
        if self._ctx is None:
            raise RuntimeError("events() before open()")
        return self.function(self._ctx)


class FunctionProcessor(Processor):
    """A processor made of a function of an event, or of a list of events."""

    def __init__(self, function: Callable[[Any], Any], *, batch: bool, blocking: bool, window: Window | None = None) -> None:
        self.function = function
        self.batch = batch
        self.blocking = blocking
        self.window = window
        # Found on the instance before the class: the hot path calls the author's function with nothing between.
        self.process = function

    def __call__(self, event: Any) -> Any:  # noqa: ANN401 - the author's types
        """The function itself."""
        return self.function(event)

    @property
    def name(self) -> str:
        """See ``Component``."""
        return _name(self.function)

    @property
    def description(self) -> str:
        """See ``Component``."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


class FunctionSink(Sink):
    """A sink made of a function of an event, or of a list of events."""

    def __init__(self, function: Callable[[Any], Any], *, batch: bool, blocking: bool) -> None:
        self.function = function
        self.batch = batch
        self.blocking = blocking
        self._is_async = inspect.iscoroutinefunction(function)

    def __call__(self, events: Any) -> Any:  # noqa: ANN401 - the author's types
        """The function itself."""
        return self.function(events)

    @property
    def name(self) -> str:
        """See ``Component``."""
        return _name(self.function)

    @property
    def description(self) -> str:
        """See ``Component``."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    async def write(self, events: list[Event]) -> None:
        """See ``Sink``."""
        if self._is_async:
            await self._write_async(events)
        elif self.blocking:
            await asyncio.to_thread(self._write, events)
        else:
            self._write(events)

    async def _write_async(self, events: list[Event]) -> None:
        if self.batch:
            await self.function(events)
        else:
            for event in events:
                await self.function(event)

    def _write(self, events: list[Event]) -> None:
        if self.batch:
            self.function(events)
        else:
            for event in events:
                self.function(event)


def source(function: Callable[[Context], Emitted]) -> FunctionSource:
    """Make a source of a generator function: ``async def numbers(ctx): … yield {"n": 1}``."""
    return FunctionSource(function)


ProcessorFunction = Callable[[Event], Any]
BatchProcessorFunction = Callable[[list[Event]], Sequence[Any] | Awaitable[Sequence[Any]]]
WindowProcessorFunction = Callable[[list[Event]], Any]
SinkFunction = Callable[[Event], Any]
BatchSinkFunction = Callable[[list[Event]], Any]


@overload
def processor(function: ProcessorFunction, /) -> FunctionProcessor: ...
@overload
def processor(*, batch: Literal[True], blocking: bool = False) -> Callable[[BatchProcessorFunction], FunctionProcessor]: ...
@overload
def processor(*, window: Window, blocking: bool = False) -> Callable[[WindowProcessorFunction], FunctionProcessor]: ...
@overload
def processor(*, batch: Literal[False] = False, blocking: bool = False) -> Callable[[ProcessorFunction], FunctionProcessor]: ...
def processor(
    function: Callable[[Any], Any] | None = None,
    /,
    *,
    batch: bool = False,
    blocking: bool = False,
    window: Window | None = None,
) -> Any:
    """Make a processor of a function that takes an ``Event`` (with ``batch=True`` a list) and returns what goes on.

    It may be ``def`` or ``async def``. ``blocking=True`` runs a ``def`` that waits for something in a thread. With ``window`` it
    takes the list of a window's events and returns what comes of all of them together: None, one value, or a list of values.
    """
    if function is not None:
        return FunctionProcessor(function, batch=batch, blocking=blocking, window=window)

    def decorate(decorated: Callable[[Any], Any]) -> FunctionProcessor:
        return FunctionProcessor(decorated, batch=batch, blocking=blocking, window=window)

    return decorate


@overload
def sink(function: SinkFunction, /) -> FunctionSink: ...
@overload
def sink(*, batch: Literal[True], blocking: bool = False) -> Callable[[BatchSinkFunction], FunctionSink]: ...
@overload
def sink(*, batch: Literal[False] = False, blocking: bool = False) -> Callable[[SinkFunction], FunctionSink]: ...
def sink(function: Callable[[Any], Any] | None = None, /, *, batch: bool = False, blocking: bool = False) -> Any:
    """Make a sink of a function that takes an ``Event`` (with ``batch=True`` a list) and returns when it is durable.

    It may be ``def`` or ``async def``. ``blocking=True`` runs a ``def`` that waits for something in a thread.
    """
    if function is not None:
        return FunctionSink(function, batch=batch, blocking=blocking)

    def decorate(decorated: Callable[[Any], Any]) -> FunctionSink:
        return FunctionSink(decorated, batch=batch, blocking=blocking)

    return decorate


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
