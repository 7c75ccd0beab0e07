"""Programs that register for ever with the replicated registry, and remember what was acknowledged to them."""

import asyncio
import threading
import time
from typing import Final

import grpc
import msgspec

from cluster.parts import REGISTRY, Cluster
from flowctl.control.v1 import control_pb2 as pb
from flowctl.control.v1.control_pb2_grpc import ComponentRegistryStub
from flowctl.errors import JournalUnavailableError
from flowctl.journal.events import Aggregate, ComponentRegistered, HostDrainCancelled
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Draft
from support.flowctl import until

PIPELINE: Final = "ledger"
EVERY_S: Final = 0.5
CALL_S: Final = 2.0
PAUSE_S: Final = 0.1
TRY_ELSEWHERE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
REGISTERED: Final = f"flowctl.journal.component.{PIPELINE}.*.*.registered"


class Acknowledged(msgspec.Struct, frozen=True):
    """A registration that a registry has confirmed: its incarnation, and when it was asked for and confirmed (monotonic)."""

    incarnation: int
    begun: float
    done: float


class Registrar(threading.Thread):
    """One program, started anew again and again by nobody but itself: each registration is of a higher incarnation."""

    def __init__(self, component: str, registries: list[str]) -> None:
        super().__init__(name=f"registrar-{component}", daemon=True)
        self.component = component
        self.acknowledged: list[Acknowledged] = []
        self.failure: Exception | None = None
        self._registries = registries
        self._over = threading.Event()

    def run(self) -> None:
        """Register until told to end; what a registry must not answer is a failure."""
        number = 0
        try:
            while not self._over.is_set():
                number += 1
                self._register(number)
                self._over.wait(EVERY_S)
        except grpc.RpcError as error:
            self.failure = error

    def end(self) -> None:
        """No further registration."""
        self._over.set()
        self.join()

    def _register(self, number: int) -> None:
        who = pb.Instance(pipeline=PIPELINE, component=self.component, index=0, incarnation=number)
        request = pb.RegisterComponentRequest(
            instance=who, kind=pb.KIND_SOURCE, address="127.0.0.1:9", boot_id=f"{self.component}-{number}"
        )
        while not self._over.is_set():
            begun = time.monotonic()
            with grpc.insecure_channel(self._registries[0]) as channel:
                try:
                    ComponentRegistryStub(channel).RegisterComponent(request, timeout=CALL_S)
                except grpc.RpcError as error:
                    if error.code() not in TRY_ELSEWHERE:
                        raise
                else:
                    self.acknowledged.append(Acknowledged(number, begun, time.monotonic()))
                    return
            self._registries.append(self._registries.pop(0))
            self._over.wait(PAUSE_S)


class Registrars:
    """One on each host's registry; each goes on to the next one when its own does not answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        addresses = [f"{place.address}:{REGISTRY}" for place in cluster.network.places]
        self.each = [
            Registrar(f"at-{place.name}", addresses[at:] + addresses[:at]) for at, place in enumerate(cluster.network.places)
        ]
        for registrar in self.each:
            registrar.start()

    def total(self) -> int:
        """How many registrations were acknowledged so far."""
        return sum(len(registrar.acknowledged) for registrar in self.each)

    def first_after(self, instant: float) -> float | None:
        """After how many seconds a registration was acknowledged that was asked for after ``instant``; None: none yet."""
        done = [each.done for registrar in self.each for each in list(registrar.acknowledged) if each.begun > instant]
        return min(done) - instant if done else None

    def lost(self) -> list[str]:
        """Acknowledged registrations that the journal does not hold. There must be none."""
        acknowledged = {
            (registrar.component, each.incarnation) for registrar in self.each for each in list(registrar.acknowledged)
        }
        for registrar in self.each:
            if registrar.failure is not None:
                raise AssertionError(f"{registrar.name}: {registrar.failure}")
        found: set[tuple[str, int]] = until(self._read, "the journal to be read", timeout_s=60, every_s=0.2)
        return sorted(f"{component} #{number}" for component, number in acknowledged - found)

    def _read(self) -> set[tuple[str, int]] | None:
        try:
            return asyncio.run(_journalled(self._cluster))
        except JournalUnavailableError:
            return None

    def end(self) -> None:
        """Stop them."""
        for registrar in self.each:
            registrar.end()


async def _journalled(cluster: Cluster) -> set[tuple[str, int]]:
    """What the journal itself holds of them: component and incarnation.

    A server that led until it was held up answers for a moment with what it had: so an entry is appended first, which only the
    leader can acknowledge, and nothing is read before that entry is there.
    """
    store = await JetStreamStore.connect(cluster.nats_urls, name="auditor", create=False, assume_synced=True)
    try:
        [mark] = await store.journal.append([Draft(Aggregate.of_host("probe"), HostDrainCancelled())], actor="auditor")
        if await store.journal.last_sequence() < mark.seq:
            raise JournalUnavailableError("this server has not heard of the newest entry yet")
        return {
            (entry.aggregate.instance.component, entry.event.incarnation)
            async for entry in store.journal.read(subject=REGISTERED)
            if entry.aggregate is not None and isinstance(entry.event, ComponentRegistered)
        }
    finally:
        await store.close()
