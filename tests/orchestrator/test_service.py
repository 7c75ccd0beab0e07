"""The orchestrator as a service: on the in-memory journal with a clock of the test's own, and on a real one with endpoints."""

import asyncio

import msgspec
import pytest

from flowctl import api
from flowctl.clock import VirtualClock
from flowctl.endpoints import Endpoints, call
from flowctl.errors import DeadlineError, InvalidSpecError, NotFoundError, UserError
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    CheckpointCommitted,
    ComponentAssigned,
    ComponentExited,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    HostJoined,
    HostLeft,
    JournalEvent,
    PipelineSubmitted,
    SealPlaced,
)
from flowctl.journal.log import Draft, Entry
from flowctl.journal.memory import MemoryStore
from flowctl.journal.store import Store
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import OrchestratorSettings, load_settings
from flowctl.spec.model import Pipeline
from flowctl_orchestrator.service import OrchestratorService
from support.ledger import component, linear, pipeline
from support.nats import connect, nats_server
from support.orchestrators import orchestrator
from support.polling import eventually

ONE = InstanceId("orders", "numbers", 0)


def projection_of(service: OrchestratorService) -> Projection:
    """What the orchestrator has read."""
    return service._context.projection  # pyright: ignore[reportPrivateUsage]


def submission(pipeline: Pipeline) -> api.Submit:
    """``flowctl up``."""
    return api.Submit(pipeline=msgspec.Raw(msgspec.json.encode(pipeline)), correlation="c-1")


async def write(store: Store, aggregate: Aggregate, *events: JournalEvent) -> list[Entry]:
    """What others append."""
    return await store.journal.append([Draft(aggregate, event) for event in events], actor="test")


async def join(store: Store, *hosts: str) -> None:
    """Hosts with the process driver."""
    for host in hosts:
        await write(store, Aggregate.of_host(host), HostJoined(agent=host, address="127.0.0.1", drivers=["process"]))


async def entries(store: Store) -> list[Entry]:
    """The whole journal but its seals."""
    return [entry async for entry in store.journal.read() if not isinstance(entry.event, SealPlaced)]


async def run_all(store: Store, incarnation: int = 1) -> None:
    """What agents and programs write until every instance is running."""
    for entry in await entries(store):
        if isinstance(entry.event, ComponentAssigned) and entry.aggregate is not None:
            host, kind = entry.event.host, entry.event.kind
            await write(
                store,
                entry.aggregate,
                ComponentStarting(host=host, incarnation=incarnation, assignment=entry.seq),
                ComponentStarted(host=host, incarnation=incarnation, handle="1"),
                ComponentRegistered(incarnation=incarnation, kind=kind, boot_id="b", address="127.0.0.1:1"),
            )


async def test_two_orchestrators_assign_once():
    """Both plan everything, the journal lets one of them write it: each instance has exactly one assignment."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with orchestrator(store, clock=clock, name="one") as one, orchestrator(store, clock=clock, name="two") as two:
        await join(store, "h1", "h2")
        await one.commands.submit(submission(linear(replicas=5)))
        await two.commands.submit(submission(linear("clicks", replicas=5)))
        await clock.advance(1)
        await run_all(store)
        await clock.advance(1)
        written = await entries(store)
        assigned = [str(entry.aggregate) for entry in written if isinstance(entry.event, ComponentAssigned)]
        assert len(assigned) == len(set(assigned)) == 14
        for service in (one, two):
            view = await service.commands.status(api.StatusRequest())
            assert [each.status for each in view.pipelines] == ["running", "running"]
        causes = {entry.causation for entry in written if isinstance(entry.event, ComponentAssigned)}
        assert causes == {entry.seq for entry in written if isinstance(entry.event, PipelineSubmitted)}
        assert {entry.correlation for entry in written if isinstance(entry.event, ComponentAssigned)} == {"c-1"}


async def test_a_submission_that_comes_twice_runs_once():
    """Its answer was lost: the same request is asked again, and neither begins a second run nor is refused."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with orchestrator(store, clock=clock) as service:
        await join(store, "h1")
        request = msgspec.structs.replace(submission(linear()), fresh=True)
        first = await service.commands.submit(request)
        await clock.advance(1)
        again = await service.commands.submit(request)
        assert (again, first.change) == (first, "created")
        other = msgspec.structs.replace(submission(linear()), correlation="c-2")
        assert (await service.commands.submit(other)).change == "unchanged"
        assert sum(isinstance(entry.event, PipelineSubmitted) for entry in await entries(store)) == 1


async def test_a_status_is_of_all_that_is_in_the_journal():
    """An orchestrator that has not read on says that it lags, and not what was; while the journal is away it says what was."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with orchestrator(store, clock=clock) as service:
        await join(store, "h1")
        view = await service.commands.status(api.StatusRequest())
        assert (view.seq, [host.name for host in view.hosts]) == (1, ["h1"])
        last = store.journal.last_sequence

        async def further() -> int:
            return await last() + 1  # the entry is there, and has not come here yet

        store.journal.last_sequence = further  # type: ignore[method-assign]
        with pytest.raises(DeadlineError):
            await service.commands.status(api.StatusRequest())
        store.set_available(available=False)
        assert [host.name for host in (await service.commands.status(api.StatusRequest())).hosts] == ["h1"]


async def test_nothing_is_done_while_the_journal_is_away():
    """Its status says since when nothing is known; when the journal is back, what is due is done."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with orchestrator(store, clock=clock) as service:
        await join(store, "h1")
        await service.commands.submit(submission(linear()))
        await clock.advance(1)
        await run_all(store)
        await clock.advance(1)
        count = len(await entries(store))
        store.set_available(available=False)
        await clock.advance(120)
        view = await service.commands.status(api.StatusRequest(pipeline="orders"))
        assert view.unknown_since_ms is not None
        assert view.pipelines[0].status == "unknown"
        assert view.pipelines[0].reason == "the journal does not answer; last known: running"
        assert {each.status for each in view.pipelines[0].instances} == {"unknown"}
        assert service.readiness() == "the journal does not answer"
        store.set_available(available=True)
        await clock.advance(1)
        assert service.readiness() is None
        assert len(await entries(store)) == count
        await service.commands.stop(api.Stop(pipeline="orders"))
        await clock.advance(1)
        assert (await service.commands.status(api.StatusRequest())).pipelines[0].status == "stopping"


async def test_one_pipeline_that_cannot_be_planned_hides_no_other():
    """A cycle that somebody wrote into the journal is shown as that pipeline's trouble; the others are planned."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    broken = pipeline("broken", [component("a")], [component("b", "c"), component("c", "b")], [component("d", "c")])
    async with orchestrator(store, clock=clock) as service:
        await join(store, "h1")
        await write(store, Aggregate.of_pipeline("broken"), PipelineSubmitted(revision=1, pipeline=broken))
        await service.commands.submit(submission(linear()))
        await clock.advance(1)
        await run_all(store)
        await clock.advance(1)
        shown = {each.name: each for each in (await service.commands.status(api.StatusRequest())).pipelines}
        assert shown["broken"].reason.startswith("it cannot be planned: the pipeline 'broken' has a cycle")
        assert shown["orders"].status == "running"
        await service.commands.submit(submission(linear("broken")))
        await clock.advance(1)
        assert (await service.commands.status(api.StatusRequest(pipeline="broken"))).pipelines[0].reason != shown["broken"].reason


async def test_time_alone_moves_what_an_agent_left_behind():
    """Nothing is written while an agent that left may come back; after a minute the orchestrator wakes by itself."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with orchestrator(store, clock=clock) as service:
        await join(store, "h1")
        await service.commands.submit(submission(linear()))
        await clock.advance(1)
        await run_all(store)
        await join(store, "h2")
        await write(store, Aggregate.of_host("h1"), HostLeft())
        await write(
            store,
            Aggregate.of_instance(ONE),
            ComponentExited(host="h1", incarnation=1, assignment=service_seq(await entries(store))),
        )
        await clock.advance(58)
        assert (await entries(store))[-1].ce_type != "flowctl.component.assigned.v1"
        await clock.advance(3)
        moved = [entry for entry in await entries(store) if isinstance(entry.event, ComponentAssigned)][-1]
        assert isinstance(moved.event, ComponentAssigned)
        assert (str(moved.aggregate), moved.event.host) == ("component/orders.numbers.0", "h2")


def service_seq(written: list[Entry]) -> int:
    """The assignment of ``ONE``."""
    return next(e.seq for e in written if isinstance(e.event, ComponentAssigned) and e.aggregate == Aggregate.of_instance(ONE))


async def test_a_crash_shows_for_what_it_waits():
    """An instance in back-off says when it is restarted and why, and never that it runs."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with orchestrator(store, clock=clock) as service:
        await join(store, "h1")
        await service.commands.submit(submission(linear()))
        await clock.advance(1)
        await run_all(store)
        seq = service_seq(await entries(store))
        exited = ComponentExited(host="h1", incarnation=1, assignment=seq, code=1, restart_in_s=3.2)
        await write(store, Aggregate.of_instance(ONE), exited)
        await clock.advance(0)
        view = (await service.commands.status(api.StatusRequest())).pipelines[0]
        assert (view.status, view.reason) == ("degraded", "numbers.0 is restarting")
        numbers = view.instances[0]
        assert (numbers.phase, numbers.status, numbers.address, numbers.handle) == ("restarting", "unknown", "", "")
        assert numbers.waiting_for == "restart in 3.2 s after exit code 1"
        assert numbers.last_exit == "exit code 1"


async def test_commands_over_nats():
    """The CLI's requests reach an orchestrator on a real journal; refusals arrive as what they are, with the way out."""
    async with nats_server() as server:
        store = await connect(server)
        projection = Projection(store.journal)
        following = await projection.start()
        context = ServiceContext(
            store=store, projection=projection, endpoints=lambda service: Endpoints(lambda: store.nc, service, name="one")
        )
        service = OrchestratorService(context, load_settings(OrchestratorSettings, name="one"))
        await service.start()
        client = await connect(server, name="client")

        async def ask(verb: str, request: api.Request, kind: type[msgspec.Struct]) -> msgspec.Struct:
            return await call(client.nc, api.ORCHESTRATOR, verb, request, kind, timeout_s=5)

        def status() -> str:
            state = projection.fleet.pipelines.get("orders")
            return state.status if state is not None else ""

        try:
            await join(store, "h1")
            submitted = await ask("submit", submission(linear()), api.Submitted)
            assert isinstance(submitted, api.Submitted)
            assert (submitted.revision, submitted.change) == (1, "created")
            again = await ask("submit", msgspec.structs.replace(submission(linear()), correlation="c-2"), api.Submitted)
            assert again == api.Submitted(pipeline="orders", revision=1, change="unchanged", seq=submitted.seq)
            await eventually(lambda: len(projection.fleet.instances) == 3, "assigned")
            await run_all(store)
            await eventually(lambda: status() == "running", "running")

            with pytest.raises(InvalidSpecError) as invalid:
                await ask("submit", submission(pipeline("bad", [component("a")], [], [component("z", "b", "c")])), api.Submitted)
            assert len(invalid.value.problems) >= 2
            with pytest.raises(InvalidSpecError, match="the request holds no pipeline"):
                await ask("submit", api.Submit(pipeline=msgspec.Raw(b'{"x": 1}')), api.Submitted)
            with pytest.raises(NotFoundError, match="did you mean"):
                await ask("stop", api.Stop(pipeline="order"), api.Done)
            with pytest.raises(UserError, match="cannot be scaled to 0"):
                await ask("scale", api.Scale(pipeline="orders", component="double", replicas=0), api.Done)

            done = await ask("scale", api.Scale(pipeline="orders", component="double", replicas=2), api.Done)
            assert isinstance(done, api.Done)
            assert done.instances == ["orders.double.0", "orders.double.1"]
            restarted = await ask("restart", api.RestartInstances(pipeline="orders", component="numbers"), api.Done)
            assert isinstance(restarted, api.Done)
            assert restarted.instances == ["orders.numbers.0"]
            view = await ask("status", api.StatusRequest(pipeline="orders"), api.StatusView)
            assert isinstance(view, api.StatusView)
            assert view.pipelines[0].instances[0].phase == "replacing"
            info = await ask("info", api.InfoRequest(), api.Info)
            assert isinstance(info, api.Info)
            assert (info.service, info.ready) == ("orchestrator", True)

            await ask("stop", api.Stop(pipeline="orders"), api.Done)
            await eventually(lambda: status() == "stopping", "stopping")
            assert await ask("stop", api.Stop(pipeline="orders"), api.Done)
        finally:
            await service.stop()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await client.close()
            await store.close()


async def test_a_rebuilt_fleet_equals_the_live_one():
    """On a real journal, an orchestrator's fold and one made from the first entry on have the same digest."""
    async with nats_server() as server:
        store = await connect(server)
        try:
            async with orchestrator(store) as service:
                await join(store, "h1")
                await service.commands.submit(submission(linear(replicas=20)))
                live = projection_of(service)
                await eventually(lambda: len(live.fleet.instances) == 22, "assigned")
                rebuilt = Projection(store.journal)
                following = await rebuilt.start()
                await eventually(lambda: rebuilt.fleet.seq == live.fleet.seq, "read")
                assert rebuilt.fleet.digest() == live.fleet.digest()
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        finally:
            await store.close()


async def test_a_large_stop_goes_on_among_checkpoints():
    """Sources that checkpoint all the time cannot hold up a stop of many: a batch that conflicts is halved."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    many = 600
    async with orchestrator(store, clock=clock) as service:
        await join(store, "h1")
        await service.commands.submit(submission(linear(replicas=many)))
        await clock.advance(1)
        await run_all(store)
        await clock.advance(1)
        busy = [InstanceId("orders", "numbers", index) for index in range(0, many, 50)]
        over = asyncio.Event()

        async def checkpoints() -> None:
            position = 0
            while not over.is_set():
                position += 1
                for id_ in busy:
                    await write(store, Aggregate.of_instance(id_), CheckpointCommitted(incarnation=1, position=position))

        writing = asyncio.create_task(checkpoints())
        try:
            await service.commands.stop(api.Stop(pipeline="orders"))
            fleet = projection_of(service).fleet

            def withdrawn() -> bool:
                return all(each.assignment is None for each in fleet.members["orders"] if each.id.component == "numbers")

            await eventually(withdrawn, "all sources withdrawn", timeout_s=60)
        finally:
            over.set()
            await writing
