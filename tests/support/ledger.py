"""A journal without waiting: the same entries and expectations as the real one, as plain calls. For simulations of many steps."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from flowctl.decision import Decision, Rejected
from flowctl.errors import ConflictError
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal import chain, codec
from flowctl.journal.events import Aggregate, JournalEvent
from flowctl.journal.log import Draft, Entry, Head
from flowctl.spec.model import Component, Metadata, Pipeline, Spec

START_NS = 1_700_000_000_000_000_000


class Ledger:
    """Entries in memory, the time that they are stamped with, and a fold of all of them."""

    def __init__(self) -> None:
        self.now_ns = START_NS
        self.entries: list[Entry] = []
        self.fleet = Fleet()
        self._ids = itertools.count(1)

    def advance(self, seconds: float) -> None:
        """Let time go on."""
        self.now_ns += int(seconds * 1e9)

    def append(
        self, drafts: Sequence[Draft], *, expect: Mapping[Aggregate, Head] | None = None, actor: str = "test"
    ) -> list[Entry]:
        """Append all, or raise ``ConflictError``; see ``Journal.append``."""
        chain.check_drafts(drafts)
        heads = {draft.aggregate: self.fleet.head(draft.aggregate) for draft in drafts}
        for aggregate, head in heads.items():
            if expect is not None and expect[aggregate].seq != head.seq:
                raise ConflictError(f"{aggregate} ends at {head.seq}")
        links = chain.link(
            drafts, heads, actor=actor, correlation="", new_id=lambda: f"id-{next(self._ids)}", wall_ns=self.now_ns
        )
        written: list[Entry] = []
        for link in links:
            stored = link.stored
            written.append(codec.decode(len(self.entries) + 1, self.now_ns, stored.subject, stored.headers, stored.data))
            self.entries.append(written[-1])
            self.fleet.apply(written[-1])
        return written

    def write(self, name: InstanceId | str, *events: JournalEvent) -> list[Entry]:
        """Append events of an instance, of a pipeline (``orders``) or of a host (``host/h1``)."""
        if isinstance(name, InstanceId):
            aggregate = Aggregate.of_instance(name)
        elif name.startswith("host/"):
            aggregate = Aggregate.of_host(name.removeprefix("host/"))
        else:
            aggregate = Aggregate.of_pipeline(name)
        return self.append([Draft(aggregate, event) for event in events])


class Reader:
    """A fold of a ledger that may lag behind it, and writes with the expectations that it knows."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.fleet = Fleet()

    def read(self, count: int | None = None) -> None:
        """Fold the next entries, all of them by default."""
        at = self.fleet.seq
        for entry in self.ledger.entries[at : None if count is None else at + count]:
            self.fleet.apply(entry)

    def decide(self, choose: Callable[[Fleet], Decision], *, actor: str) -> bool:
        """Decide on what was read and append; whether anything was written (a conflict or a refusal writes nothing)."""
        decision = choose(self.fleet)
        if isinstance(decision, Rejected) or not decision:
            return False
        try:
            self.ledger.append(
                decision, expect={draft.aggregate: self.fleet.head(draft.aggregate) for draft in decision}, actor=actor
            )
        except ConflictError:
            return False
        return True


def component(component_id: str, *inputs: str, **fields: object) -> Component:
    """A component that runs ``true``."""
    return Component(id=component_id, command=["true"], inputs=list(inputs), **fields)  # pyright: ignore[reportArgumentType]


def pipeline(name: str, sources: list[Component], processors: list[Component], sinks: list[Component]) -> Pipeline:
    """A pipeline of these components."""
    spec = Spec(sources=sources, processors=processors, sinks=sinks)
    return Pipeline(api_version="flowctl/v1", kind="Pipeline", metadata=Metadata(name=name), spec=spec)


def linear(name: str = "orders", *, replicas: int = 1, **relay: object) -> Pipeline:
    """numbers → double → store; ``relay`` are fields of ``double``, ``replicas`` those of ``numbers``."""
    return pipeline(
        name,
        [component("numbers", replicas=replicas)],
        [component("double", "numbers", **relay)],
        [component("store", "double")],
    )
