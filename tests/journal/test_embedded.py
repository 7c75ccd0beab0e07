"""The embedded nats-server: started fast, adopted, restarted on its port, never orphaned, private."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from flowctl.errors import JournalUnavailableError
from flowctl.journal import server_process
from flowctl.journal.embedded import EmbeddedNats, discover
from flowctl.journal.events import Aggregate, HostDrainRequested
from flowctl.journal.log import Draft, Entry
from support.disks import fill, make_room, small_disk, why_no_disks
from support.journals import collected, stop
from support.nats import connect
from support.polling import eventually

STARTER = """
import asyncio, sys
from pathlib import Path
from flowctl.journal.embedded import EmbeddedNats
async def main():
    server = EmbeddedNats(Path(sys.argv[1]), detached=sys.argv[2] == "detached")
    await server.start()
    print(server.pid, server.adopted, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    server = EmbeddedNats(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop(adopted=True)


def starter(directory: Path, *, detached: bool = False) -> tuple[subprocess.Popen[str], int, bool]:
    """Another process that starts or adopts the server: it, the server's pid, whether it was adopted."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(directory), "detached" if detached else "bound"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid, adopted = process.stdout.readline().split()
    return process, int(pid), adopted == "True"


def gone(pid: int) -> bool:
    """Whether no live process has this id."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(process: subprocess.Popen[str]) -> None:
    """End a starter as nobody can prepare for."""
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


async def test_a_client_can_connect_as_soon_as_start_returns(server: EmbeddedNats):
    """And the monitoring proves its fsync setting."""
    store = await connect(server)
    await store.close()


async def test_it_is_private(server: EmbeddedNats):
    """Loopback only; a password that only the directory's owner can read; nobody else gets in."""
    for name in ("nats.conf", "nats.json"):
        assert stat.S_IMODE((server.directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    addresses = {c.laddr.ip for c in psutil.Process(server.pid).net_connections(kind="inet") if c.status == "LISTEN"}
    assert addresses == {"127.0.0.1"}
    port = urlsplit(server.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        said = b""
        try:
            while data := stranger.recv(4096):
                said += data
        except ConnectionResetError:
            pass
    assert b"PONG" not in said
    assert (urlsplit(server.url).password or "?") not in " ".join(psutil.Process(server.pid).cmdline())


async def test_a_second_starter_adopts_it(server: EmbeddedNats):
    """One server per directory; whoever adopted it leaves it running."""
    second = EmbeddedNats(server.directory)
    await second.start()
    assert (second.adopted, second.pid, second.url) == (True, server.pid, server.url)
    await second.stop()
    assert not gone(server.pid)
    found = discover(server.directory)
    assert found is not None
    assert (found.url, found.monitor_url, found.pid) == (server.url, server.monitor_url, server.pid)


async def test_of_many_starters_at_once_one_starts_it(tmp_path: Path):
    """The lock lets one start, the others adopt."""
    servers = [EmbeddedNats(tmp_path) for _ in range(8)]
    await asyncio.gather(*(server.start() for server in servers))
    assert len({server.pid for server in servers}) == 1
    assert sum(not server.adopted for server in servers) == 1
    await asyncio.gather(*(server.stop() for server in servers))
    assert gone(servers[0].pid)
    assert discover(tmp_path) is None


async def test_it_is_restarted_on_the_same_port(tmp_path: Path):
    """Killed -9, it comes back where its clients look for it, with everything in it, and it is said."""
    said: list[str] = []
    server = EmbeddedNats(tmp_path, on_change=said.append)
    await server.start()
    store = await connect(server)
    await store.journal.append([stop("a")], actor="test")
    url, monitor_url, pid = server.url, server.monitor_url, server.pid
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: server.restarts == 1, "it runs again")
    assert (server.url, server.monitor_url) == (url, monitor_url)
    assert server.pid != pid
    await store.journal.append([stop("b")], actor="test")
    assert len(await collected(store.journal.read())) == 2
    assert [f"pid {pid}" in said[0], f"pid {server.pid}" in said[1]] == [True, True]
    await store.close()
    await server.stop()
    assert gone(server.pid)


async def test_the_port_and_the_password_outlive_a_stop(tmp_path: Path):
    """Clients of yesterday's server find today's; only when somebody else has the port, another one is taken."""
    server = EmbeddedNats(tmp_path)
    await server.start()
    url, port = server.url, urlsplit(server.url).port
    await server.stop()
    await server.start()
    assert server.url == url
    await server.stop()
    with socket.create_server(("127.0.0.1", port or 0)):
        await server.start()
        assert urlsplit(server.url).port != port
        assert urlsplit(server.url).password == urlsplit(url).password
        await server.stop()


async def test_it_dies_with_its_starter(tmp_path: Path):
    """The starter is killed -9: no orphan; the next start has everything."""
    process, pid, _ = starter(tmp_path)
    kill(process)
    server = EmbeddedNats(tmp_path)
    await server.start()
    assert server.pid != pid
    await eventually(lambda: gone(pid), "the first server is gone")
    store = await connect(server)
    await store.close()
    await server.stop()


async def test_a_detached_one_outlives_its_starter(tmp_path: Path):
    """Detached, it is adopted by the next start instead."""
    process, pid, _ = starter(tmp_path, detached=True)
    kill(process)
    assert not gone(pid)
    server = EmbeddedNats(tmp_path)
    await server.start()
    assert (server.adopted, server.pid) == (True, pid)
    await server.stop(adopted=True)
    assert gone(pid)


async def test_the_adopter_takes_over(tmp_path: Path):
    """When the starter dies and its server with it, whoever adopted the server starts it again."""
    process, pid, _ = starter(tmp_path)
    server = EmbeddedNats(tmp_path)
    await server.start()
    assert (server.adopted, server.pid) == (True, pid)
    kill(process)
    await eventually(lambda: server.restarts == 1, "the adopter has started it again")
    assert server.pid != pid
    assert not server.adopted
    await server.stop()
    assert gone(server.pid)


async def test_a_hanging_one_is_replaced(tmp_path: Path):
    """A server that lives and does not answer is ended before another one gets its store."""
    process, pid, _ = starter(tmp_path, detached=True)
    kill(process)
    os.kill(pid, signal.SIGSTOP)
    server = EmbeddedNats(tmp_path)
    await server.start()
    assert gone(pid)
    assert not server.adopted
    await server.stop()


async def test_another_process_with_its_number_is_not_touched(tmp_path: Path):
    """Process ids are used again: only a nats-server of this directory is taken for ours."""
    server = EmbeddedNats(tmp_path)
    await server.start()
    pid = server.pid
    await server.stop()
    state = tmp_path / "nats.json"
    state.write_text(state.read_text().replace(f'"pid":{pid}', f'"pid":{os.getpid()}'))
    assert discover(tmp_path) is None
    await server.start()
    assert server.pid != os.getpid()
    await server.stop()


async def test_a_damaged_state_file_is_replaced(tmp_path: Path):
    """Half a file, or none, costs the old password and port, not the start."""
    (tmp_path / "nats.json").write_bytes(b'{"password": "\xff')
    server = EmbeddedNats(tmp_path)
    await server.start()
    await server.stop()


async def test_a_server_that_does_not_come_up_is_explained(tmp_path: Path):
    """One sentence with the server's last words, and the place of its log."""
    (tmp_path / "jetstream").write_text("in the way")
    with pytest.raises(JournalUnavailableError, match=r"nats-server did not come up: Can't start JetStream: .*nats\.log"):
        await EmbeddedNats(tmp_path, start_timeout_s=3).start()


async def test_a_missing_program_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Without nats-server: what is missing, and the three ways out."""
    monkeypatch.setattr(server_process, "PROGRAM", "nats-server-that-is-not-there")
    with pytest.raises(JournalUnavailableError, match=r"no nats-server program .*--nats"):
        await EmbeddedNats(tmp_path).start()


async def test_a_full_disk_is_said_and_heals_by_itself(tmp_path: Path):
    """Nothing false is acknowledged; once there is room the server is started anew, without anybody's doing."""
    reason = why_no_disks()
    if reason is not None:
        pytest.skip(reason)
    said: list[str] = []
    with small_disk(tmp_path / "nats") as disk:
        server = EmbeddedNats(disk, on_change=said.append)
        await server.start()
        store = await connect(server, request_timeout_s=1)
        draft = Draft(Aggregate.of_host("h1"), HostDrainRequested(reason="x" * 1000))
        acknowledged = list(await store.journal.append([draft], actor="test"))
        await asyncio.to_thread(fill, disk)
        full = time.monotonic()
        for _ in range(100):
            try:
                acknowledged += await store.journal.append([draft], actor="test")
            except JournalUnavailableError:
                break
        else:
            pytest.fail("the disk is full, and a hundred entries were taken")
        await eventually(lambda: any("keeps nothing" in each for each in said), "it is said")
        assert time.monotonic() - full <= 10
        assert not any("started anew" in each for each in said)
        make_room(disk)
        again: list[Entry] = []

        async def append() -> None:
            while not again:
                with contextlib.suppress(JournalUnavailableError):
                    again.extend(await store.journal.append([draft], actor="test"))

        async with asyncio.timeout(10):
            await append()
        assert server.restarts == 1
        found = {entry.id: entry for entry in await collected(store.journal.read())}
        assert all(found[entry.id].seq == entry.seq for entry in [*acknowledged, *again])
        await store.close()
        await server.stop()
