"""The connection always finds back: whatever the client does, and without keeping the server from coming back."""

import asyncio
import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowctl import api
from flowctl.endpoints import Endpoints, call
from flowctl.errors import JournalUnavailableError
from flowctl.journal import monitoring
from flowctl.journal.jetstream import api_call, connection
from flowctl.journal.jetstream.client import PatientClient
from flowctl.journal.jetstream.reader import Position, StreamReader
from flowctl.journal.subjects import JOURNAL_STREAM
from support.nats import connect, nats_server
from support.polling import eventually

STEPS = 12
"""An attempt at a server that is gone has fewer steps of the event loop."""


async def _pong(request: api.InfoRequest) -> api.Done:
    del request
    return api.Done(seq=7)


async def _squatter(port: int) -> asyncio.Server:
    """Takes the port as soon as the one who had it is wholly gone: its threads end one after the other, its sockets last."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", ["its attempts end without a word", "an attempt waits for ever"])
async def test_a_client_that_does_not_find_back_is_replaced(monkeypatch: pytest.MonkeyPatch, how: str):
    """Then callers go on, and the endpoints answer on the new client."""
    monkeypatch.setattr(connection, "STUCK_AFTER_S", 0.5)
    async with nats_server() as server:
        store = await connect(server)
        endpoints = Endpoints(lambda: store.nc, "echo", name="one")
        store.connection.on_reconnect.append(lambda: moved.append(asyncio.create_task(endpoints.follow_client())))
        moved: list[asyncio.Task[None]] = []
        endpoints.add("pong", api.InfoRequest, _pong)
        await endpoints.start()
        stuck = store.nc
        never = asyncio.Event()

        async def attempt() -> None:
            if how == "an attempt waits for ever":
                await never.wait()

        monkeypatch.setattr(stuck, "_attempt_reconnect", attempt)
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: not store.connected, "the loss is seen")
        await eventually(lambda: store.connected and store.nc is not stuck, "a new client", timeout_s=20)
        await eventually(lambda: bool(moved) and all(task.done() for task in moved), "the endpoints follow")
        answer = await call(store.nc, "echo", "pong", api.InfoRequest(), api.Done, timeout_s=5)
        assert answer.seq == 7
        assert await store.journal.last_sequence() == 0
        await endpoints.stop()
        await store.close()


async def test_a_client_that_was_given_up():
    """Reading on one says that the journal is away; endpoints do not end over it, and answer on the next one."""
    async with nats_server() as server:
        store, other = await connect(server), await connect(server)
        well, gone = store.nc, other.nc
        await other.close()
        endpoints = Endpoints(lambda: store.nc, "echo", name="one")
        endpoints.add("pong", api.InfoRequest, _pong)
        await endpoints.start()
        store.connection.client = gone
        with pytest.raises(JournalUnavailableError):
            await anext(aiter(StreamReader(store.connection, JOURNAL_STREAM).batches(Position(), follow=True)))
        await endpoints.follow_client()
        store.connection.client = well
        await endpoints.follow_client()
        assert (await call(well, "echo", "pong", api.InfoRequest(), api.Done, timeout_s=5)).seq == 7
        await endpoints.stop()
        await store.close()


async def test_the_port_is_never_one_to_dial_from():
    """Or a client that dials an absent server is one day given its port, connects to itself, and keeps it from coming back."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    async with nats_server() as server:
        assert int(server.url.rpartition(":")[2]) < first
        assert int(server.monitor_url.rpartition(":")[2]) < first


async def test_a_restart_under_clients_keeps_the_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Even if it cannot be bound for a while: clients know no other one."""
    taken = asyncio.Event()
    async with nats_server(tmp_path) as server:
        store = await connect(server)
        port = int(server.url.rpartition(":")[2])
        ensure = server._ensure  # pyright: ignore[reportPrivateUsage] - held back until the port is taken

        async def wait_and_ensure(*, ports_may_change: bool = True) -> None:
            await taken.wait()
            await ensure(ports_may_change=ports_may_change)

        monkeypatch.setattr(server, "_ensure", wait_and_ensure)
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: not store.connected, "the loss is seen")
        squatter = await _squatter(port)
        taken.set()
        await eventually(lambda: "address already in use" in server.log_path.read_text(), "a start in vain")
        squatter.close()
        await eventually(lambda: store.connected, "the way back", timeout_s=20)
        assert int(server.url.rpartition(":")[2]) == port
        await store.close()


async def test_a_server_that_is_held_up_is_left_sooner_than_a_host_may_be_missed():
    """It takes bytes and says nothing: within five seconds, the shortest patience with hosts, another is found."""
    async with nats_server() as one, nats_server() as other:
        held = connection.Connection(f"{one.url},{other.url}", name="test", connect_timeout_s=5, request_timeout_s=5)
        await held.open()
        pids = {int(server.url.rpartition(":")[2]): server.pid for server in (one, other)}
        first = held.server_info["port"]
        os.kill(pids[first], signal.SIGSTOP)
        try:
            await eventually(lambda: held.connected and held.server_info["port"] != first, "the other server", timeout_s=4.5)
        finally:
            os.kill(pids[first], signal.SIGCONT)
        await held.close()


async def test_attempts_that_come_half_way_leave_no_sockets():
    """A server that takes connections and says nothing sensible costs no more sockets the longer it does so."""
    said = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal said
        del reader
        said += 1
        writer.write(b"no NATS here\r\n")
        writer.close()

    async with nats_server() as server:
        store = await connect(server)
        port = int(server.url.rpartition(":")[2])
        await server.stop(adopted=True)
        mine = psutil.Process()
        gc.disable()
        try:
            async with await asyncio.start_server(hang_up, "127.0.0.1", port):
                await eventually(lambda: said >= 3, "attempts")
                before = mine.num_fds()
                await eventually(lambda: said >= 23, "more attempts", timeout_s=20)
                assert mine.num_fds() <= before + 3
        finally:
            gc.enable()
        await store.close()


async def test_closing_survives_that_somebody_else_gave_up_waiting_for_the_socket_to_end():
    """Whoever waits for it and is cancelled cancels the wait of all: an attempt that ran out of time must not end the closer."""
    async with nats_server() as server:
        held = connection.Connection(server.url, name="test", connect_timeout_s=5, request_timeout_s=5)
        await held.open()
        waiting = asyncio.create_task(held.client._transport.wait_closed())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await held.close()


async def test_closing_survives_that_the_server_is_gone_and_something_was_to_be_sent():
    """Nobody can take it: the client ends all the same, with its subscriptions."""
    async with nats_server() as server:
        held = connection.Connection(server.url, name="test", connect_timeout_s=5, request_timeout_s=5)
        await held.open()
        inbox = next(iter(held.client._subs.values()))
        await server.stop()
        await eventually(lambda: held.client.is_reconnecting, "the client to notice")
        await held.client.publish("somewhere", b"data")
        await held.close()
        assert held.client.is_closed
        assert not held.client._subs
        await eventually(inbox._wait_for_msgs_task.done, "the subscription to end")


async def test_a_client_that_is_closed_while_it_looks_for_its_server_looks_no_more(monkeypatch: pytest.MonkeyPatch):
    """At whatever step of an attempt the end comes: nothing of the client goes on."""
    dial: Any = getattr(PatientClient, "_connect_to_server")  # noqa: B009 - nats-py has no public name for it
    dialling: set[PatientClient] = set()

    async def told(client: PatientClient, server: object) -> None:
        dialling.add(client)
        await dial(client, server)

    async with nats_server() as server:
        held = [connection.Connection(server.url, name="test", connect_timeout_s=5, request_timeout_s=5) for _ in range(STEPS)]
        for each in held:
            await each.open()
        await server.stop(adopted=True)
        monkeypatch.setattr(PatientClient, "_connect_to_server", told)
        for steps, each in enumerate(held):
            dialling.clear()
            async with asyncio.timeout(10):
                while each.client not in dialling:
                    await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            attempts = each.client._reconnection_task
            await each.close()
            await asyncio.sleep(0)
            assert attempts.done(), f"closed after {steps} steps of an attempt, it goes on"
            assert each.client.is_closed


@pytest.mark.parametrize(("refusals", "err_code", "answered"), [(3, 10008, True), (10**6, 10008, False), (1, 10076, False)])
async def test_while_a_cluster_elects_its_leader_the_question_is_asked_again(refusals: int, err_code: int, *, answered: bool):
    """For as long as the caller has time, unless JetStream is switched off: then at once."""
    asked = 0

    async def answer(message: Any) -> None:
        nonlocal asked
        asked += 1
        error = {"error": {"code": 503, "err_code": err_code, "description": "temporarily unavailable"}}
        await message.respond(json.dumps(error if asked <= refusals else {"seq": 7}).encode())

    async with nats_server() as server:
        held = connection.Connection(server.url, name="test", connect_timeout_s=5, request_timeout_s=1)
        await held.open()
        await held.client.subscribe("$JS.API.A.QUESTION", cb=answer)
        if answered:
            assert await held.api("A.QUESTION", None, dict[str, int]) == {"seq": 7}
        else:
            with pytest.raises(JournalUnavailableError, match="temporarily unavailable"):
                await held.api("A.QUESTION", None, dict[str, int])
        assert asked == (refusals + 1 if answered else 1 if err_code == 10076 else asked)
        await held.close()


async def test_what_was_asked_of_a_cluster_without_a_leader_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    """It never answers that question, and soon answers another one; what may be asked only once is not."""
    monkeypatch.setattr(api_call, "ANSWER_S", 0.1)
    asked = 0

    async def answer(message: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            await message.respond(b'{"seq": 7}')

    async with nats_server() as server:
        held = connection.Connection(server.url, name="test", connect_timeout_s=5, request_timeout_s=5)
        await held.open()
        await held.client.subscribe("$JS.API.A.QUESTION", cb=answer)
        assert await held.api("A.QUESTION", None, dict[str, int]) == {"seq": 7}
        asked = 0
        with pytest.raises(JournalUnavailableError, match="no reply within"):
            await held.api("A.QUESTION", None, dict[str, int], timeout_s=0.5, again=False)
        assert asked == 1
        await held.close()


async def test_an_outage_makes_no_second_loop(monkeypatch: pytest.MonkeyPatch):
    """However many dials fail: one loop makes new clients, and in the end there is one connection."""
    monkeypatch.setattr(connection, "STUCK_AFTER_S", 0.1)
    monkeypatch.setattr(connection, "SUPERVISE_S", 0.1)
    monkeypatch.setattr(connection, "MAX_REOPEN_WAIT_S", 0.1)
    dials = 0
    dial = getattr(connection.Connection, "_dial_once")  # noqa: B009 - one attempt, to be counted

    async def counted(self: connection.Connection, timeout_s: float) -> Any:
        nonlocal dials
        dials += 1
        return await dial(self, timeout_s)

    monkeypatch.setattr(connection.Connection, "_dial_once", counted)
    async with nats_server() as server:
        held = connection.Connection(server.url, name="test", connect_timeout_s=0.15, request_timeout_s=5)
        await held.open()
        await server.stop(adopted=True)
        most = 0

        def enough() -> bool:
            nonlocal most
            most = max(most, len(getattr(held, "_tasks")))  # noqa: B009 - what it does beside its callers
            return dials > 25

        await eventually(enough, "some dials that fail", timeout_s=20)
        assert most <= 2, "the supervisor, and at most one that was told of a client's end"
        await server.start()
        await eventually(lambda: held.connected, "it is back", timeout_s=10)
        await asyncio.sleep(0)
        status, varz = await monitoring.ask(server.monitor_url, "/connz")
        assert status == 200
        assert json.loads(varz)["num_connections"] == 1
        await held.close()


@pytest.mark.parametrize("answer", [b"", b'HTTP/1.0 200 OK\r\nContent-Length: 40\r\n\r\n{"server_id"'])
async def test_an_answer_of_the_monitoring_that_is_cut_off_is_none(answer: bytes):
    """A server that ends while it is asked is away; it does not prove that it is no nats-server."""

    async def hang_up(incoming: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await incoming.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionResetError, match="ended before it had answered"):
            await monitoring.ask(f"http://127.0.0.1:{port}", "/varz")
