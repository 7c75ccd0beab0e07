"""The all-in-one server: an embedded NATS server, one projection, and registry, health, orchestrator and agent in one process.

``serve`` is its whole life. ``python -m flowctl_cli.server`` is how ``flowctl up`` starts one in the background. NATS starts
first and the services' modules are imported meanwhile, because whoever starts a pipeline waits for both.
"""

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowctl import __version__, paths
from flowctl.errors import FlowctlError, InvalidSettingError
from flowctl.journal.embedded import EmbeddedNats
from flowctl_cli import server_record
from flowctl_cli.journal_import import import_journal, wants_websockets
from flowctl_cli.server_record import ServerLock, ServerRecord

if TYPE_CHECKING:
    from flowctl.projection import Projection
    from flowctl.serving import ServiceContext
    from flowctl.settings import ServerSettings

SETTLE_S: Final = 0.2

log = logging.getLogger("flowctl_cli.server")


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told besides its settings: the pid whose end frees it to stop when idle, and where it logs."""

    until_idle_without: int | None = None
    log_file: Path | None = None


def main(arguments: list[str] | None = None) -> int:
    """The background server's program: settings come from the environment alone."""
    parser = argparse.ArgumentParser(prog="flowctl-server", allow_abbrev=False)
    parser.add_argument("--until-idle-without", type=int)
    parser.add_argument("--log-file", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        return serve({}, Orders(until_idle_without=chosen.until_idle_without, log_file=chosen.log_file))
    except FlowctlError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def serve(chosen: dict[str, Any], orders: Orders) -> int:
    """Run the server until SIGTERM or SIGINT; the exit code. ``chosen`` are settings that override all others.

    Raises:
        RefusedError: a server runs for this state directory.
        InvalidSettingError: a setting cannot be used.
    """
    state_dir = Path(chosen.get("state_dir") or paths.default_state_dir())
    lock = ServerLock(state_dir)
    try:
        with asyncio.Runner() as runner:
            return runner.run(_guarded(_serve(state_dir, chosen, orders)))
    finally:
        server_record.remove_record(state_dir)
        lock.release()


async def _guarded(work: Any) -> int:  # noqa: ANN401 - a coroutine
    """Turn what ends the server early into a log message and an exit code."""
    try:
        return await work
    except FlowctlError as error:
        log.error("%s", error)  # noqa: TRY400 - one clear sentence, no traceback
        if not logging.getLogger().handlers:
            raise
        return error.exit_code


async def _serve(state_dir: Path, chosen: dict[str, Any], orders: Orders) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bond, notice = _Bond(orders.until_idle_without), _Notice()
    nats = _early_nats(state_dir, chosen, notice)
    starting = asyncio.create_task(nats.start()) if nats else None
    try:
        settings = await asyncio.to_thread(_prepare, chosen, orders)
        if nats is None and not settings.nats_url:
            nats = EmbeddedNats(paths.nats_dir(settings.state_dir), on_change=notice.renew)
            starting = asyncio.create_task(nats.start())
        if starting is not None and nats is not None:
            await starting
            settings.nats_url, settings.nats_monitor_url = nats.url, nats.monitor_url
        return await _run(settings, nats, bond, notice, stop)
    finally:
        if starting is not None and nats is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await nats.stop(adopted=True)


def _early_nats(state_dir: Path, chosen: dict[str, Any], notice: "_Notice") -> EmbeddedNats | None:
    """The embedded NATS server, if it is sure without reading a settings file that there is to be one."""
    named = chosen.get("nats_url") or os.environ.get("FLOWCTL_NATS_URL") or os.environ.get("FLOWCTL_SETTINGS_FILE")
    return None if named else EmbeddedNats(paths.nats_dir(state_dir), on_change=notice.renew)


def _prepare(chosen: dict[str, Any], orders: Orders) -> "ServerSettings":
    """Read the settings, begin to log, and import everything that the server is made of."""
    from flowctl.settings import ServerSettings, load_settings
    from flowctl.telemetry.logs import setup_logging

    settings = load_settings(ServerSettings, **chosen)
    try:
        setup_logging(settings.log_level, settings.log_format, service="server", file=orders.log_file)
    except OSError as error:
        raise InvalidSettingError(f"the log file cannot be written: {error}") from error
    # The server only ever forks to run other programs; gRPC would remark on each time in the log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    import_journal(websockets=wants_websockets(settings.nats_url))
    importlib.import_module("flowctl_cli.composition")
    return settings


async def _run(
    settings: "ServerSettings", nats: EmbeddedNats | None, bond: "_Bond", notice: "_Notice", stop: asyncio.Event
) -> int:
    from flowctl_cli.composition import run_all

    watching: list[asyncio.Task[None]] = []

    async def ready(context: "ServiceContext") -> None:
        notice.post(settings, nats)
        watching.append(asyncio.create_task(bond.watch(settings, context.projection, stop)))
        log.info("pid %d; components register at %s", os.getpid(), settings.registry)

    async def ending() -> None:
        notice.take_down()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    return await run_all(settings, stop=stop, ready=ready, ending=ending)


class _Notice:
    """``server.json``: posted once the server is ready, renewed when NATS came back as another process, taken down at the end."""

    def __init__(self) -> None:
        self._posted: tuple[ServerSettings, EmbeddedNats | None] | None = None

    def post(self, settings: "ServerSettings", nats: EmbeddedNats | None) -> None:
        """Say how the server is reached."""
        self._posted = settings, nats
        self.renew("")

    def renew(self, _why: str) -> None:
        """Say it again, as it is now."""
        if self._posted is None:
            return
        settings, nats = self._posted
        record = ServerRecord(
            pid=os.getpid(),
            started=server_record.process_started(os.getpid()) or "",
            version=__version__,
            nats_url=nats.url if nats else settings.nats_url,
            nats_monitor_url=nats.monitor_url if nats else settings.nats_monitor_url,
            nats_pid=nats.pid if nats else None,
            registry=settings.registry,
            http=settings.http_listen,
        )
        server_record.write_record(settings.state_dir, record)

    def take_down(self) -> None:
        """Let nobody find a server that is going away."""
        if self._posted is not None:
            server_record.remove_record(self._posted[0].state_dir)
            self._posted = None


class _Bond:
    """What a server that was started for one command owes to it: to end once that command is gone and nothing runs.

    SIGUSR2 says that the command no longer needs the server, SIGUSR1 that somebody wants it to stay for good.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._released = asyncio.Event()
        self._stays = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._stays.set)
        loop.add_signal_handler(signal.SIGUSR2, self._released.set)

    async def watch(self, settings: "ServerSettings", projection: "Projection", stop: asyncio.Event) -> None:
        """Set ``stop`` when the time has come."""
        if self._pid is None:
            return
        await self._freed(self._pid)
        while not self._stays.is_set():
            if not _busy(projection, settings.name) and server_record.detach_all(settings.state_dir):
                log.info("nothing runs and nobody needs this server any more: it ends")
                stop.set()
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S if not _busy(projection, settings.name) else None):
                    await projection.changed()

    async def _freed(self, pid: int) -> None:
        from flowctl.journal.server_process import ended

        waits = [asyncio.ensure_future(wait) for wait in (ended(pid), self._released.wait(), self._stays.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _busy(projection: "Projection", host: str) -> bool:
    """Whether a pipeline is live, or something that was started here still runs."""
    fleet = projection.fleet
    return any(not pipeline.ended for pipeline in fleet.pipelines.values()) or any(
        instance.active and instance.ever_assigned and instance.run_host == host for instance in fleet.instances.values()
    )


if __name__ == "__main__":
    sys.exit(main())
