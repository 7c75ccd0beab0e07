"""The test kit: run a component in memory, without network or control plane.

::

    async def test_double():
        assert [event.json() for event in await process(double, [{"n": 1}])] == [{"n": 2}]
"""

import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from flowctl.ids import InstanceId
from flowctl.spec.model import OnError
from flowctl_sdk.acks import AckLog
from flowctl_sdk.author import Component, Emitted, Processor, Sink, Source
from flowctl_sdk.calls import Failures
from flowctl_sdk.columns import Columns
from flowctl_sdk.context import Checkpoint, Context
from flowctl_sdk.event import Event
from flowctl_sdk.inbox import Arrival, Inbox
from flowctl_sdk.production import Numbering
from flowctl_sdk.settings import component_id
from flowctl_sdk.windowed import WindowTransform
from flowctl_sdk.windows import Gathering
from flowctl_sdk.work import SinkWork, Transform


async def produce(
    source: Source | type[Source],
    *,
    config: dict[str, Any] | None = None,
    resume_at: int = 0,
    cursor: bytes = b"",
    limit: int | None = None,
    state_dir: Path | None = None,
) -> list[Event]:
    """The events that a source emits, from ``resume_at`` on; at most ``limit``, for one that never ends.

    Raises:
        EventFailedError: if it emits what is no event.
        Exception: whatever the source raises.
    """
    component = source() if isinstance(source, type) else source
    checkpoint = Checkpoint(resume_at - 1, cursor) if resume_at else None
    with tempfile.TemporaryDirectory() as scratch:
        ctx = _context(component, config, state_dir or Path(scratch), checkpoint)
        await component.open(ctx)
        try:
            values: list[Any] = []
            emitted = _each(component.events())
            async for value in emitted:
                if limit is not None and len(values) >= limit:
                    break
                values.append(value)
        finally:
            await component.close()
    return _columns(ctx, values, resume_at).events() if values else []


async def process(
    processor: Processor | type[Processor],
    values: Iterable[object],
    *,
    config: dict[str, Any] | None = None,
    on_error: OnError | None = None,
    state_dir: Path | None = None,
) -> list[Event]:
    """The events that a processor makes of these values (each as a source may yield it), in order.

    Windows end by their count and at the end of the values; no time passes.

    Raises:
        EventFailedError: if the processor raises, as ``on_error`` (default: fail) says.
    """
    component = processor() if isinstance(processor, type) else processor
    given = list(values)
    with tempfile.TemporaryDirectory() as scratch:
        ctx = _context(component, config, state_dir or Path(scratch), None)
        await component.open(ctx)
        try:
            outputs = await _processed(component, ctx, given, Failures(on_error or OnError())) if given else None
        finally:
            await component.close()
    return outputs.events() if outputs is not None else []


async def _processed(component: Processor, ctx: Context, given: list[object], failures: Failures) -> Columns | None:
    if component.window is None:
        return (await Transform(component, ctx.instance.component, failures)(_input(given)))[0]
    transform = WindowTransform(component, component.window, ctx.instance.component, failures)
    gathering = Gathering(component.window)
    parts: list[Columns] = []
    rest: Arrival | None = Arrival(_input(given), AckLog[int](lambda _: None).open(len(given) - 1))
    while rest is not None:
        rest = gathering.add(rest, 0)
        outputs, _ = await transform(gathering.close()[0])
        if outputs is not None:
            parts.append(outputs)
    return Columns.merged(parts) if parts else None


async def consume(
    sink: Sink | type[Sink],
    values: Iterable[object],
    *,
    config: dict[str, Any] | None = None,
    on_error: OnError | None = None,
    state_dir: Path | None = None,
) -> None:
    """Have a sink write these values (each as a source may yield it).

    Raises:
        EventFailedError: if the sink raises, as ``on_error`` (default: fail) says.
    """
    component = sink() if isinstance(sink, type) else sink
    given = list(values)
    with tempfile.TemporaryDirectory() as scratch:
        await component.open(_context(component, config, state_dir or Path(scratch), None))
        try:
            if given:
                await SinkWork(component, Inbox(), Failures(on_error or OnError())).write(_input(given).events())
        finally:
            await component.close()


def _context(component: Component, config: dict[str, Any] | None, state_dir: Path, checkpoint: Checkpoint | None) -> Context:
    instance = InstanceId("test", component_id(component.name), 0)
    return Context(config=config or {}, instance=instance, state_dir=state_dir, checkpoint=checkpoint)


def _columns(ctx: Context, values: list[Any], first: int) -> Columns:
    return Numbering(f"{ctx.instance.component}.0", first).columns(values, 0)[0]


def _input(values: list[object]) -> Columns:
    return Numbering("test.0", 0).columns(values, 0)[0]


async def _each(emitted: Emitted) -> AsyncIterator[Any]:
    if isinstance(emitted, AsyncIterable):
        async for value in emitted:
            yield value
    else:
        for value in emitted:
            yield value
