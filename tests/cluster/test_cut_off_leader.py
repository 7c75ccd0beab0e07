"""Whether entries are gone: a leader that is cut off from the others does not know, one that is followed does."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.parts import MONITOR, NATS, Cluster, Part, cluster
from cluster.places import Place, loopback
from flowctl.errors import JournalCorruptError, JournalUnavailableError
from flowctl.journal import subjects
from flowctl.journal.jetstream import JetStreamStore, streams
from flowctl.seen import Seen, SeenFile
from flowctl.serving import connect
from flowctl.settings import Settings, load_settings
from support.flowctl import until
from support.journals import stop

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def servers(tmp_path: Path) -> Generator[Cluster]:
    """Three NATS servers, and what makes their streams."""
    with cluster(loopback(3), tmp_path, parts=("nats", "registry")) as running:
        yield running


@asynccontextmanager
async def at(place: Place) -> AsyncGenerator[JetStreamStore]:
    """A store that knows this host's server only."""
    store = await JetStreamStore.connect(url(place), name="test", monitor_url=monitor(place), request_timeout_s=5)
    try:
        yield store
    finally:
        await store.close()


def url(place: Place) -> str:
    """Where the host's server takes clients."""
    return f"nats://{place.address}:{NATS}"


def monitor(place: Place) -> str:
    """Where it tells of itself."""
    return f"http://{place.address}:{MONITOR}"


async def follows(store: JetStreamStore, others: list[Part], number: signal.Signals, *, leads: bool) -> None:
    """Hold the others up or let them go on, and wait until the leader says so itself."""
    for each in others:
        each.send(number)
    async with asyncio.timeout(30):
        while (await streams.stream_info(store.connection, subjects.JOURNAL_STREAM)).leads != leads:
            await asyncio.sleep(0.1)


async def test_only_a_leader_that_is_followed_says_that_entries_are_gone(
    servers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else it is behind, and one that waits finds the others again; who takes that for a loss ends for nothing."""
    monkeypatch.setattr(streams, "STALE_ANSWERS", 4)  # 2 s: a leader that is cut off notices after 10 s
    leader = until(servers.nats_leader, "a leader")
    place = next(each for each in servers.network.places if each.name == leader)
    others = [part for part in servers.of("nats") if part.place != place]
    settings = load_settings(Settings, state_dir=tmp_path / "state", nats_url=url(place), nats_monitor_url=monitor(place))
    settings.state_dir.mkdir()
    async with at(place) as store:
        await store.journal.append([stop()], actor="test")
        last = await store.journal.last_sequence()
        beyond = last + 7
        store.journal.observe(0, beyond)
        SeenFile(settings.state_dir, store.connection.shown).write(Seen(store.journal.created, beyond, ""))
        again = store.connection.check
        assert again is not None

        await follows(store, others, signal.SIGSTOP, leads=False)
        with pytest.raises(JournalUnavailableError, match="most of the others do not follow"):
            await again()
        with pytest.raises(JournalUnavailableError):
            await store.journal.entry(beyond)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await connect(settings)

        await follows(store, others, signal.SIGCONT, leads=True)
        with pytest.raises(JournalCorruptError, match=f"ends at {last}, and entry {beyond} was seen: entries are gone"):
            await again()
        with pytest.raises(JournalCorruptError, match=f"entry {beyond} of the journal is gone"):
            await store.journal.entry(beyond)
        with pytest.raises(JournalCorruptError, match="entries are gone"):
            await connect(settings)
