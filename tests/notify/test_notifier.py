"""The notifier against a real NATS server and a real HTTP server that fails, hangs, redirects and dawdles."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flowctl import api_notify
from flowctl.errors import InvalidSettingError
from flowctl.ids import InstanceId
from flowctl.journal import subjects
from flowctl.journal.events import Aggregate, ComponentStatusChanged
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.jetstream.streams import StreamInfo, notice_settings
from flowctl.journal.log import Draft
from flowctl.journal.notices import Notice
from flowctl.journal.subscriptions import ACK_WAIT_S
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import NotifySettings, load_settings
from flowctl_notify.service import NotifyService
from support.flowctl import control_plane
from support.hooks import Hooks, hooks
from support.nats import connect, nats_server, nats_store
from support.polling import eventually

CHANGES = "component.*.*.*.status_changed"
KEY = "a secret key"


@pytest.fixture
async def store() -> AsyncIterator[JetStreamStore]:
    async with nats_store() as store:
        yield store


@pytest.fixture
async def hook() -> AsyncIterator[Hooks]:
    async with hooks() as served:
        yield served


async def change(store: JetStreamStore, count: int, status: str = "unhealthy") -> list[int]:
    """So many status changes, one append each; their sequences."""
    seqs: list[int] = []
    for number in range(count):
        event = ComponentStatusChanged(incarnation=1, status=status, previous="unknown", reason=f"ü {number}")  # type: ignore[arg-type]
        draft = Draft(Aggregate.of_instance(InstanceId("orders", "enrich", 0)), event)
        seqs += [entry.seq for entry in await store.journal.append([draft], actor="health")]
    return seqs


class Notifier:
    """A running notifier, and the questions that its endpoints answer."""

    def __init__(self, service: NotifyService) -> None:
        self.service = service

    async def route(self, name: str) -> api_notify.RouteView:
        answer = await self.service.routes(api_notify.RoutesRequest())
        return next(route for route in answer.routes if route.name == name)


@contextlib.asynccontextmanager
async def notifier(store: JetStreamStore, *routes: str, **settings: Any) -> AsyncGenerator[Notifier]:
    """A notifier in this process, quick to try again; returns when every route is subscribed."""
    values: dict[str, Any] = {"notify_backoff_s": 0.02, "notify_backoff_max_s": 0.1, "notify_timeout_s": 1.0, **settings}
    projection = Projection(store.journal)
    following = await projection.start()
    service = NotifyService(
        ServiceContext(store=store, projection=projection), load_settings(NotifySettings, notify=list(routes), **values)
    )
    await service.start()
    try:
        await eventually(lambda: service.readiness() is None, "every route is subscribed")
        yield Notifier(service)
    finally:
        await service.stop()
        following.cancel()


async def test_an_alert_is_one_line(store: JetStreamStore, hook: Hooks):
    """Every status change from now on, in order, once, as a signed CloudEvent with the data as it is stored."""
    await change(store, 2)
    async with notifier(store, f"alerts: {CHANGES} -> http://{hook.address}/alerts", notify_secret=KEY) as running:
        seqs = await change(store, 5)
        await eventually(lambda: len(hook.received) >= 5, "five notices")
        assert hook.seqs("/alerts") == seqs
        for each in hook.received:
            signed = f"{each.headers['webhook-id']}.{each.headers['webhook-timestamp']}.".encode() + each.body
            wanted = base64.b64encode(hmac.new(KEY.encode(), signed, hashlib.sha256).digest()).decode()
            assert each.headers["webhook-signature"] == f"v1,{wanted}"
            entry = await store.journal.entry(each.seq)
            assert (each.headers["ce-id"], each.body) == (entry.id, entry.data)
        view = await running.route("alerts")
        await eventually(lambda: running.service.readiness() is None, "readiness")
        assert (view.delivered, view.failures, view.url) == (5, 0, f"http://{hook.address}/…")


async def test_only_what_meets_the_conditions(store: JetStreamStore, hook: Hooks):
    """`status=unhealthy` tells of nothing else; structured mode is one object."""
    async with notifier(store, f"{CHANGES} status=unhealthy -> http://{hook.address}/bad structured"):
        await change(store, 2, "healthy")
        await change(store, 1)
        await change(store, 1, "healthy")
        await change(store, 1)
        await eventually(lambda: len(hook.received) >= 2, "two notices")
    assert [json.loads(each.body)["sequence"] for each in hook.received] == ["3", "5"]
    assert {json.loads(each.body)["data"]["status"] for each in hook.received} == {"unhealthy"}


async def test_a_failing_address_is_tried_again_in_order_and_holds_up_nobody_else(store: JetStreamStore, hook: Hooks):
    """Three errors of different kinds, then it is taken; the next entry comes after it. Another route does not wait."""
    hook.plans["/flaky"] = [500, 429, "trickle", 200]
    routes = (f"flaky: {CHANGES} -> http://{hook.address}/flaky", f"well: {CHANGES} -> http://{hook.address}/well")
    async with notifier(store, *routes, notify_timeout_s=0.5) as running:
        first, second = await change(store, 2)
        await eventually(lambda: len(hook.at("/well")) == 2, "the other route")
        await eventually(lambda: len(hook.at("/flaky")) == 5, "five requests")
        assert hook.seqs("/flaky") == [first] * 4 + [second]
        assert len({each.headers["ce-id"] for each in hook.at("/flaky")}) == 2
        assert (await running.route("flaky")).failures == 3
    assert await store.notices.read() == []


@pytest.mark.parametrize(("answer", "reason"), [(404, "HTTP 404: said"), (302, "redirects are not followed")])
async def test_what_will_never_be_taken_is_kept_at_once(store: JetStreamStore, hook: Hooks, answer: int, reason: str):
    """No second request, no redirect followed; the next entry is told. Redriven when all is well again, it is kept no more."""
    hook.plans["/hook"] = [answer, 200]
    async with notifier(store, f"r: {CHANGES} -> http://{hook.address}/hook") as running:
        first, second = await change(store, 2)
        await eventually(lambda: len(hook.received) == 2, "both entries")
        assert hook.seqs("/hook") == [first, second]
        (stored,) = await store.notices.read()
        assert (stored.notice.route, stored.notice.seq, stored.notice.attempts) == ("r", first, 1)
        assert reason in stored.notice.error
        hook.plans["/hook"] = [404, 200]
        failed = await running.service.redrive(api_notify.RedriveNotices())
        assert [each.error for each in failed.notices] == ["HTTP 404: said"]
        assert len(await store.notices.read()) == 1
        done = await running.service.redrive(api_notify.RedriveNotices(route="r"))
        assert [(each.seq, each.error) for each in done.notices] == [(first, "")]
        assert hook.seqs("/hook") == [first, second, first, first]
    assert await store.notices.read() == []
    assert not hook.at("/elsewhere")


@pytest.mark.parametrize("answer", ["hang", "endless", 500])
async def test_after_enough_attempts_a_notice_is_kept(store: JetStreamStore, hook: Hooks, answer: int | str):
    """An address that hangs, or whose answer does not end, costs its time and no more."""
    hook.plans["/hook"] = [answer]
    async with notifier(store, f"r: {CHANGES} -> http://{hook.address}/hook", notify_attempts=3, notify_timeout_s=0.3):
        (seq,) = await change(store, 1)
        async with asyncio.timeout(10):
            while not await store.notices.read():
                await asyncio.sleep(0.02)
    assert hook.seqs("/hook") == [seq] * 3
    (stored,) = await store.notices.read()
    assert "tried 3 times" in stored.notice.error


async def test_an_address_that_does_not_answer_is_asked_once_in_a_redrive(store: JetStreamStore, hook: Hooks):
    """However many notices there are for it; those of other routes go out."""
    silent, taken = f"a: host.*.lost -> http://{hook.address}/silent", f"b: host.*.lost -> http://{hook.address}/taken"
    hook.plans["/silent"] = ["hang"]
    for route, seq in zip("aaba", await change(store, 4), strict=True):
        await store.notices.put(Notice(route=route, seq=seq, error="no answer"))
    async with notifier(store, silent, taken, notify_timeout_s=0.3) as running:
        done = await running.service.redrive(api_notify.RedriveNotices())
    assert [each.error for each in done.notices] == [
        "no answer within 0.3 s",
        "not tried: no answer within 0.3 s",
        "",
        "not tried: no answer within 0.3 s",
    ]
    assert (len(hook.at("/silent")), len(hook.at("/taken"))) == (1, 1)
    assert [stored.notice.route for stored in await store.notices.read()] == ["a", "a", "a"]


async def test_without_room_for_what_nobody_takes_a_route_waits(store: JetStreamStore, hook: Hooks):
    """The journal answers, so the notifier is ready; the entry is not POSTed for each look; room made, the route goes on."""
    smaller = notice_settings(1) | {"max_bytes": 700}
    await store.connection.api(f"STREAM.UPDATE.{subjects.NOTICE_STREAM}", smaller, StreamInfo)
    kept = await store.notices.put(Notice(route="other", seq=1, error="x" * 400))
    hook.plans["/hook"] = [404, 200]
    async with notifier(store, f"r: {CHANGES} -> http://{hook.address}/hook") as running:
        first, second = await change(store, 2)
        await eventually(lambda: running.service.readiness() is None and bool(hook.received), "the first request")
        await asyncio.sleep(ACK_WAIT_S + 1.0)
        assert hook.seqs("/hook") == [first]
        assert running.service.readiness() is None
        assert (await running.route("r")).state == "undelivered notices are full: redrive or forget them"
        await store.notices.remove(kept)
        await eventually(lambda: len(hook.received) == 2, "the next entry")
        assert hook.seqs("/hook") == [first, second]
    assert [(stored.notice.route, stored.notice.seq) for stored in await store.notices.read()] == [("r", first)]


async def test_a_test_goes_along_every_route(store: JetStreamStore, hook: Hooks):
    """With its own type; a route that does not exist is said so."""
    hook.plans["/b"] = [500]
    async with notifier(
        store, f"a: host.*.lost -> http://{hook.address}/a", f"b: host.*.lost -> http://{hook.address}/b"
    ) as running:
        answer = await running.service.test(api_notify.TryRoutes(actor="ops"))
        assert [(each.name, each.error) for each in answer.routes] == [("a", ""), ("b", "HTTP 500: said")]
        assert hook.at("/a")[0].headers["ce-type"] == "flowctl.notify.test.v1"
        assert [each.name for each in (await running.service.test(api_notify.TryRoutes(route="a"))).routes] == ["a"]


async def test_killed_in_the_middle_it_goes_on_without_a_gap(hook: Hooks, tmp_path: Path):
    """The program alone, killed -9 while an entry is refused: every entry is taken once it can be, in order, none left out."""
    token = tmp_path / "token"
    token.write_text("T0PS3CRET")
    log = tmp_path / "log"
    directory = tmp_path / "nats"
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(nats_server(directory))
        store = await connect(server)
        environment = {
            **os.environ,
            "FLOWCTL_NATS_URL": server.url,
            "FLOWCTL_NATS_MONITOR_URL": server.monitor_url,
            "FLOWCTL_LOG_LEVEL": "debug",
            "FLOWCTL_NOTIFY": f"all: {CHANGES} -> http://{hook.address}/${{file:{token}}}",
            "FLOWCTL_NOTIFY_SECRET": f"${{file:{token}}}",
            "FLOWCTL_NOTIFY_BACKOFF_S": "0.02",
        }

        def start() -> subprocess.Popen[bytes]:
            with log.open("ab") as err:
                return subprocess.Popen([sys.executable, "-m", "flowctl_notify"], env=environment, stderr=err)

        process = start()
        try:
            async with asyncio.timeout(20):
                while await store.subscriptions.look("flowctl-notify-all") is None:
                    await asyncio.sleep(0.02)
            path = "/T0PS3CRET"
            hook.plans[path] = [500, 200, 500, 200]
            seqs: list[int] = []
            for number in range(2):
                seqs += await change(store, 40)
                enough = 40 * number + 10
                await eventually(lambda enough=enough: len(set(hook.seqs(path))) > enough, "some notices", timeout_s=40)
                hook.plans[path] = [500]
                refused = len(hook.at(path))
                await eventually(lambda n=refused: 500 in [each.answer for each in hook.at(path)[n:]], "a refusal", timeout_s=20)
                process.send_signal(signal.SIGKILL)
                process.wait()
                hook.plans[path] = [500, 200]
                process = start()
            seqs += await change(store, 10)
            await eventually(lambda: hook.seqs(path)[-1:] == seqs[-1:], "the last notice", timeout_s=60)
            told = hook.seqs(path)
            assert list(dict.fromkeys(told)) == seqs
            assert told == sorted(told)
            assert list(dict.fromkeys(each.seq for each in hook.at(path) if each.answer == 200)) == seqs
            assert len({each.headers["ce-id"] for each in hook.at(path)}) == len(seqs)
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            await store.close()
    text = log.read_text()
    assert "ready" in text
    assert "T0PS3CRET" not in text


def test_settings_that_cannot_be_obeyed_are_refused_before_anything_starts():
    """One sentence, with the name and not the content."""
    settings = load_settings(NotifySettings, notify=[f"a: {CHANGES} -> https://h.example/${{env:NO_SUCH_VARIABLE}}"])
    with pytest.raises(InvalidSettingError, match="NO_SUCH_VARIABLE is not set"):
        NotifyService.check(settings)
    for words, said in ((["--notify", "component -> nowhere"], "component"), (["--notify-secret", "whsec_!"], "notify_secret")):
        program = [sys.executable, "-m", "flowctl_notify", *words]
        done = subprocess.run(program, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1


async def test_inside_the_server_and_at_the_command_line(hook: Hooks, tmp_path: Path):
    """The all-in-one server runs the notifier when it has routes; list, test, dead-letters and redrive."""
    route = f"ends: pipeline.*.status_changed status=completed -> http://{hook.address}/ends"
    pipeline = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: short}
spec:
  sources: [{id: numbers, type: generator, config: {count: 3}}]
  sinks: [{id: out, type: console, inputs: [numbers]}]
"""

    def play() -> None:
        with control_plane(tmp_path, notify=route, notify_attempts="1", notify_timeout_s="3.5") as flowctl:
            flowctl.run("server", "--detach")
            assert [each["error"] for each in flowctl.json("notify", "test")["routes"]] == [""]
            assert "no answer within 3.5 s" in flowctl.run("notify", "test", expect=1).stdout
            flowctl.write("short.yaml", pipeline)
            flowctl.run("up", "short.yaml")
            (view,) = flowctl.json("notify", "list")["routes"]
            assert (view["name"], view["where"]) == ("ends", {"status": "completed"})
            assert "ends" in flowctl.run("notify", "list").stdout
            (undelivered,) = flowctl.json("notify", "dead-letters")
            assert (undelivered["route"], undelivered["type"]) == ("ends", "flowctl.pipeline.status_changed.v1")
            assert "HTTP 500" in flowctl.run("notify", "dead-letters", "ends").stdout
            assert "that nobody took, and that are kept: 1" in flowctl.run("doctor", expect=None).stdout
            assert "HTTP 500" in flowctl.run("notify", "redrive", expect=1).stdout
            assert "taken" in flowctl.run("notify", "redrive", "--id", str(undelivered["number"])).stdout
            assert flowctl.json("notify", "dead-letters") == []
            assert "no route" in flowctl.run("notify", "test", "nobody", expect=1).stderr
            assert "a notifier serves route ends" in flowctl.run("notify", "forget", "ends", expect=1).stderr
            assert {"notify", "notices"} & {each["check"] for each in flowctl.json("doctor", expect=None)} == {"notify"}
            flowctl.run("server", "stop")
            assert flowctl.json("notify", "forget", "ends") == {"route": "ends", "notices": 0}
            assert "there was none" in flowctl.run("notify", "forget", "ends", expect=1).stderr
            assert "delivered" in flowctl.run("notify", "dead-letters").stderr
            flowctl.run("notify", "list", expect=3)

    hook.plans["/ends"] = [200, "hang", 500, 500, 200]
    await asyncio.to_thread(play)
    (*tests, first, again, last) = hook.at("/ends")
    told = [first, again, last]
    assert [test.headers["ce-type"] for test in tests] == ["flowctl.notify.test.v1"] * 2
    assert len({each.headers["ce-id"] for each in told}) == 1
