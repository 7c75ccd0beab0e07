"""``run``: the last line of a component's program."""

import asyncio
import os
import sys
import threading
from importlib.metadata import version
from typing import Final, NoReturn

from flowctl.errors import EXIT_USER, UserError
from flowctl_sdk.author import Component
from flowctl_sdk.logs import set_up_logs
from flowctl_sdk.settings import Settings, read_settings

TRIED_GRPC: Final = "1.85."


def run(component: Component | type[Component]) -> NoReturn:
    """Run a source, processor or sink as the environment says, and exit: 0 completed or stopped, 1 failed, 2 bad settings,
    75 superseded by a newer incarnation.

    Without ``FLOWCTL_ENDPOINT`` it runs on its own, for debugging.
    """  # noqa: D205 - one sentence
    try:
        instance = component() if isinstance(component, type) else component
        settings = read_settings(instance.kind, instance.name)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_USER)
    # gRPC reads these when it is imported, which must not be before here.
    for name, value in transport_settings(version("grpcio")).items():
        os.environ.setdefault(name, value)
    set_up_logs(settings.instance, settings.incarnation, settings.log_level, settings.log_format)
    loop = _new_loop()
    asyncio.set_event_loop(loop)
    code = loop.run_until_complete(_run(instance, settings))
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        # A thread of the author's that hangs must not keep an instance that has said goodbye.
        os._exit(code)
    sys.exit(code)


def transport_settings(grpc_version: str) -> dict[str, str]:
    """The environment that this version of gRPC gets, where the user does not say otherwise.

    Its own log is about its transport; what matters of it comes back as an error. Without its "event engine" reading and writing
    take one switch between threads less each, which is a tenth of a millisecond for an event that finds everybody asleep. Only
    for versions in which that was tried: others may not know these names, and would say so on stderr.
    """
    settings = {"GRPC_VERBOSITY": "NONE"}
    if grpc_version.startswith(TRIED_GRPC):
        settings["GRPC_EXPERIMENTS"] = "-event_engine_client,-event_engine_listener"
    return settings


def _new_loop() -> asyncio.AbstractEventLoop:
    """The loop to run on: uvloop where there is one, which wakes sooner and costs less for each message."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


async def _run(component: Component, settings: Settings) -> int:
    from flowctl_sdk.runtime import Runtime

    return await Runtime(component, settings).run()
