"""What the journal's tests write, and the two stores that they write it to."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Literal

from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentStarting, PipelineStatusChanged, PipelineStopRequested
from flowctl.journal.log import Draft, Entry, Head
from flowctl.journal.memory import MemoryStore
from flowctl.journal.store import Store
from support.nats import connect, nats_server

ORDERS: Final = Aggregate.of_pipeline("orders")
Put = Callable[[str, Mapping[str, str], bytes], Awaitable[None]]


class StoreUnderTest:
    """A store, and how a foreign writer puts a raw message beside its entries."""

    def __init__(self, store: Store, put: Put) -> None:
        self.store = store
        self.put = put


@contextlib.asynccontextmanager
async def opened(kind: Literal["memory", "jetstream"]) -> AsyncGenerator[StoreUnderTest]:
    """An empty store of either kind."""
    if kind == "memory":
        memory = MemoryStore()

        async def put_in_memory(subject: str, headers: Mapping[str, str], data: bytes) -> None:
            memory.journal.put(subject, headers, data)

        yield StoreUnderTest(memory, put_in_memory)
        return
    async with nats_server() as server:
        store = await connect(server)

        async def publish(subject: str, headers: Mapping[str, str], data: bytes) -> None:
            await store.connection.request(subject, data, headers)

        try:
            yield StoreUnderTest(store, publish)
        finally:
            await store.close()


def stop(reason: str = "", aggregate: Aggregate = ORDERS) -> Draft:
    """A small draft of a pipeline."""
    return Draft(aggregate, PipelineStopRequested(reason=reason))


def running(aggregate: Aggregate = ORDERS) -> Draft:
    """Another type of the same aggregate."""
    return Draft(aggregate, PipelineStatusChanged(status="running"))


def instance(index: int, component: str = "reader", pipeline: str = "orders") -> InstanceId:
    """An instance."""
    return InstanceId(pipeline, component, index)


def starting(index: int, incarnation: int = 1, component: str = "reader") -> Draft:
    """A small draft of an instance."""
    aggregate = Aggregate.of_instance(instance(index, component))
    return Draft(aggregate, ComponentStarting(host="here", incarnation=incarnation, assignment=1))


def head_of(entry: Entry) -> Head:
    """The head that the aggregate has after this entry."""
    return Head(entry.seq, entry.hash)


async def collected(entries: AsyncIterator[Entry]) -> list[Entry]:
    """All of a reading that ends."""
    return [entry async for entry in entries]


def check_chains(entries: list[Entry]) -> None:
    """Every entry carries the hash of its aggregate's previous one, and no id occurs twice."""
    heads: dict[Aggregate, str] = {}
    for entry in entries:
        assert entry.aggregate is not None
        assert entry.previous_hash == heads.get(entry.aggregate, ""), f"entry {entry.seq} of {entry.aggregate} breaks the chain"
        heads[entry.aggregate] = entry.hash
    assert len({entry.id for entry in entries}) == len(entries)
