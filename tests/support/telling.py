"""A small fleet's journal in memory, told fact by fact with its causes, as the real services write it."""

from flowctl.clock import VirtualClock
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentAssigned,
    ComponentExited,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    HostJoined,
    JournalEvent,
    PipelineStatus,
    PipelineStatusChanged,
    PipelineSubmitted,
)
from flowctl.journal.log import Draft
from flowctl.journal.memory import MemoryStore
from flowctl.spec.model import Kind, Pipeline
from support.stories import spec_of


class Tale:
    """Writes to a store whose clock goes on by ``seconds`` before each fact."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock)
        self.seq = 0

    async def tell(
        self, aggregate: Aggregate, event: JournalEvent, *, by: str, cause: int = 0, seconds: float = 0.1, correlation: str = "c"
    ) -> int:
        """One more fact; its sequence."""
        await self.clock.advance(seconds)
        [entry] = await self.store.journal.append([Draft(aggregate, event, cause)], actor=by, correlation=correlation)
        self.seq = entry.seq
        return entry.seq

    async def join(self, name: str = "h1", *, seconds: float = 0.1, agent: str = "a") -> int:
        """A host joins."""
        joined = HostJoined(agent=agent, address="127.0.0.1", drivers=["process"], cpus=2)
        return await self.tell(Aggregate.of_host(name), joined, by=f"agent/{name}", seconds=seconds)

    async def submit(self, pipeline: Pipeline | None = None, *, revision: int = 1, run: int = 1, seconds: float = 0.1) -> int:
        """Alice submits a pipeline."""
        event = PipelineSubmitted(revision=revision, run=run, pipeline=pipeline or spec_of(), source="orders.yaml")
        return await self.tell(Aggregate.of_pipeline("orders"), event, by="cli/alice", seconds=seconds)

    async def assign(self, name: str, cause: int, *, host: str = "h1", reason: str = "", revision: int = 1) -> int:
        """The orchestrator assigns an instance, ``double.1``."""
        id_ = orders(name)
        component = spec_of().component(id_.component)
        assert component is not None
        event = ComponentAssigned(
            host=host,
            kind=kind_of(name),
            driver="process",
            revision=revision,
            component=component,
            reason=reason,
        )
        return await self.tell(Aggregate.of_instance(id_), event, by="orchestrator/o", cause=cause)

    async def start(self, name: str, assignment: int, *, incarnation: int = 1, cause: int = 0, host: str = "h1") -> int:
        """The agent starts it and it registers; the registration."""
        of = Aggregate.of_instance(orders(name))
        starting = ComponentStarting(host=host, incarnation=incarnation, assignment=assignment)
        await self.tell(of, starting, by=f"agent/{host}", cause=cause or assignment)
        await self.tell(
            of, ComponentStarted(host=host, incarnation=incarnation, handle="77"), by=f"agent/{host}", cause=assignment
        )
        registered = ComponentRegistered(incarnation=incarnation, kind=kind_of(name), boot_id="b", address="10.0.0.1:5")
        return await self.tell(of, registered, by="registry/r", cause=assignment)

    async def kill(self, name: str, assignment: int, *, incarnation: int = 1, seconds: float = 60.0, ago_s: float = 0.05) -> int:
        """Its program ends by signal 9, and its agent says so."""
        exited = ComponentExited(
            host="h1", incarnation=incarnation, assignment=assignment, signal=9, restart_in_s=0.1, ended_ago_s=ago_s
        )
        return await self.tell(Aggregate.of_instance(orders(name)), exited, by="agent/h1", cause=assignment, seconds=seconds)

    async def status(self, word: PipelineStatus, cause: int, *, previous: PipelineStatus | None = None, reason: str = "") -> int:
        """The orchestrator moves the pipeline on."""
        event = PipelineStatusChanged(status=word, previous=previous, reason=reason)
        return await self.tell(Aggregate.of_pipeline("orders"), event, by="orchestrator/o", cause=cause)

    async def running(self) -> dict[str, int]:
        """A host, the pipeline, and all four instances running; their assignments by name. Ends with entry 19."""
        await self.join()
        submitted = await self.submit()
        names = ("numbers.0", "double.0", "double.1", "keep.0")
        assignments = {name: await self.assign(name, submitted) for name in names}
        last = 0
        for name, assignment in assignments.items():
            last = await self.start(name, assignment)
        await self.status("running", last, previous="deploying", reason="every instance is running")
        return assignments


def orders(name: str) -> InstanceId:
    """``double.1`` of pipeline ``orders``."""
    return InstanceId.parse(f"orders.{name}")


def kind_of(name: str) -> Kind:
    """What an instance of that pipeline is."""
    return "source" if name.startswith("numbers") else "sink" if name.startswith("keep") else "processor"
