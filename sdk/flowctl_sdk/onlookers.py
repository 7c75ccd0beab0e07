"""The serving end of ``flowctl tap``: streams of samples for people who look on, which never hold up what they look at."""

import asyncio
import logging
import time
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from flowctl.data.v1.data_pb2 import TapRequest
from flowctl.ids import InstanceId
from flowctl_sdk.routing import Router
from flowctl_sdk.signals import Signal
from flowctl_sdk.tap import Tap
from flowctl_sdk.wire import tap_frame

MAX_TAPS: Final = 8
INTERVAL_S: Final = 0.1

_log = logging.getLogger("flowctl.stream")

# A handler's context: gRPC's own stubs type it per message class, and these streams carry plain bytes.
ServicerContext = Any


class Onlookers:
    """Everybody who taps one instance, at most ``MAX_TAPS`` at a time."""

    def __init__(self, me: InstanceId, incarnation: int, router: Router) -> None:
        self._me = me
        self._incarnation = incarnation
        self._router = router
        self._closing = False
        self._signals: list[Signal] = []

    def close(self) -> None:
        """The instance ends: so do the streams, in order."""
        self._closing = True
        for signal in self._signals:
            signal.set()

    async def tap(self, raw: bytes, context: ServicerContext) -> None:
        """Serve one onlooker until either side has had enough."""
        try:
            request = TapRequest.FromString(raw)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is not a TapRequest")
            return
        wanted = request.upstream
        if wanted.component:
            name = InstanceId(wanted.pipeline, wanted.component, wanted.index)
            if name != self._me:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"this is {self._me}, not {name}")
            if wanted.incarnation and wanted.incarnation != self._incarnation:
                detail = f"this is incarnation {self._incarnation} of {self._me}, not {wanted.incarnation}"
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, detail)
        if len(self._router.taps) >= MAX_TAPS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._me} is tapped {MAX_TAPS} times already")
        signal = Signal()
        tap = Tap(request.events_per_s, time.monotonic_ns, signal.set)
        self._signals.append(signal)
        self._router.taps.append(tap)
        _log.debug("tapped")
        try:
            await self._show(context, tap, signal)
        finally:
            self._router.taps.remove(tap)
            self._signals.remove(signal)
            _log.debug("no longer tapped")

    async def _show(self, context: ServicerContext, tap: Tap, signal: Signal) -> None:
        # The headers tell the onlooker that the tap is open, before there is an event.
        await context.send_initial_metadata(())
        while True:
            await signal.until(lambda: len(tap) > 0 or self._closing)
            if not len(tap):
                return
            samples, skipped = tap.take()
            # Waits for as long as the onlooker does not read; what goes by meanwhile is counted.
            try:
                await context.write(tap_frame(samples, skipped))
            except grpc.aio.InternalError:
                # The onlooker went away while something was on its way to them.
                return
            if not self._closing:
                await asyncio.sleep(INTERVAL_S)
