"""Sink ``console``: prints events to standard output, one JSON line each.

Configuration::

    pretty: false      # true: indented, over several lines
    envelope: false    # true: {id, time, type, metadata, payload} in place of the payload

A payload that is not JSON is printed as a JSON string, or as ``{"base64": "…"}`` if it is not even text. ``flowctl logs``
shows what was printed.

Guarantee: at least once; an event is acknowledged when its line has been handed to the operating system.
"""

import asyncio
import sys
from typing import Final

import msgspec

from flowctl_components.config import Config, read_config
from flowctl_components.line import envelope_line, payload_line
from flowctl_sdk import Context, Event, Sink, run

_INDENT: Final = 2


class ConsoleConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    pretty: bool = False
    envelope: bool = False


class Console(Sink):
    """Prints events to standard output."""

    async def open(self, ctx: Context) -> None:
        """Read the configuration."""
        self._config = read_config(ctx, ConsoleConfig)

    async def write(self, events: list[Event]) -> None:
        """Print the batch and flush."""
        lines = map(envelope_line, events) if self._config.envelope else (payload_line(event.payload) for event in events)
        if self._config.pretty:
            lines = (msgspec.json.format(line, indent=_INDENT) for line in lines)
        # In a thread: a reader that has stopped reading blocks a write, and must not stop the heartbeats.
        await asyncio.to_thread(_print, b"".join(line + b"\n" for line in lines))


def _print(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run(Console())
