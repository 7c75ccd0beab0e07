"""Importing the JetStream journal quickly.

nats-py imports aiohttp, which is a third of a command's time, for the sake of websocket URLs alone.
"""

import importlib
import sys


def import_journal(*, websockets: bool) -> None:
    """Import ``flowctl.journal.jetstream``; without ``websockets`` nats-py is made to believe that aiohttp is not installed."""
    if websockets or "aiohttp" in sys.modules:
        importlib.import_module("flowctl.journal.jetstream")
        return
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("flowctl.journal.jetstream")
    finally:
        del sys.modules["aiohttp"]


def wants_websockets(url: str) -> bool:
    """Whether one of the NATS addresses is a websocket's."""
    return "ws://" in url or "wss://" in url
