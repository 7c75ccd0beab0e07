"""Seals fix the whole journal: written when due, kept by the fold, safe among replicas, and checked by the audit."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from flowctl.clock import VirtualClock
from flowctl.fleet import Fleet
from flowctl.journal import codec, seals, subjects
from flowctl.journal.audit import Anchor, Audit
from flowctl.journal.events import Aggregate, SealPlaced
from flowctl.journal.log import Draft, Entry, Record, Unknown
from flowctl.journal.memory import MemoryStore
from flowctl.projection import Projection
from flowctl.sealing import Sealer, unsealed, wait_s
from support.journals import collected, opened, stop
from support.polling import eventually
from support.records import Scribe, folded, journal


def audit(records: list[Record], *anchors: Anchor, last_seen: int = 0) -> Audit:
    """The finished audit of these."""
    made = Audit(anchors=anchors)
    for record in records:
        made.add(record)
    made.finish(last_seen=last_seen)
    return made


def seal_events(entries: list[Entry]) -> list[SealPlaced]:
    """The seals among these."""
    return [entry.event for entry in entries if isinstance(entry.event, SealPlaced)]


def test_an_untouched_journal_passes():
    """Every chain and every seal fits, and the digest is the fold's."""
    records = journal(1_000)
    made = audit(records)
    assert made.differences == []
    assert (made.entries, made.seq, made.sealed_upto) == (1_000, 1_000, 999)
    assert made.seals == 10
    assert made.digest == folded(records).journal_digest


def test_a_range_is_audited_by_itself():
    """From its own first entry, with the digest before it: chains that began earlier are taken up, and seals are checked."""
    records = journal(500)
    before = audit(records[:250])
    later = Audit(after=250, digest=before.digest)
    for record in records[250:]:
        later.add(record)
    later.finish()
    assert later.differences == []
    assert later.anchor == audit(records).anchor


def test_a_newer_release_may_write_of_things_unknown():
    """An aggregate kind of a later release is unknown, not poison; its chain is checked all the same."""
    scribe = Scribe()
    scribe.write(stop())
    like = scribe.records[0]
    headers = {
        **like.headers,
        "ce-type": "flowctl.secret.rotated.v1",
        "ce-subject": "keys",
        "ce-id": "x1",
    }
    first = Record(2, like.time_ns, "flowctl.journal.secret.keys.rotated", headers, b"{}")
    hashed = codec.entry_hash(first.subject, first.headers, first.data)
    second = Record(3, like.time_ns, first.subject, {**headers, subjects.CE_PREVIOUS_HASH: hashed}, b"{}")
    for record in (first, second):
        scribe.put(record)
        entry = codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data)
        assert isinstance(entry.event, Unknown)
    assert (scribe.fleet.unknown_total, scribe.fleet.poison_total) == (2, 0)
    assert audit(scribe.records).differences == []
    broken = [*scribe.records[:2], replace(second, headers={**headers, subjects.CE_PREVIOUS_HASH: "0" * 64})]
    assert [each.check for each in audit(broken).differences] == ["chain"]


def test_what_an_attacker_recomputes_to_the_end_only_an_anchor_shows():
    """A tail written anew, with its hashes and seals, is a sound journal: another one. An anchor from before tells them apart."""
    genuine, forged = journal(400), journal(400, seed=2)
    taken = audit(genuine[:300]).anchor
    assert audit(genuine, taken).differences == []
    assert audit(forged).differences == []
    [difference] = audit(forged, taken).differences
    assert (difference.check, difference.seq) == ("anchor", 300)
    assert audit(genuine[:200], taken).differences[0].names(201)
    assert Anchor.parse(str(taken)) == taken
    assert all(Anchor.parse(text) is None for text in ("", "3", "3:", "x:" + "0" * 64, "3:" + "g" * 64))


def test_an_end_before_what_was_seen_is_a_difference():
    """However well what is left fits together."""
    assert [each.check for each in audit(journal(300)[:250], last_seen=300).differences] == ["end"]


def test_a_seal_is_due_after_many_entries_or_some_quiet():
    """And never for a seal alone."""
    fleet = Fleet()
    assert wait_s(fleet, 0) is None
    for record in journal(150, seal_every=0, last_seal=False):
        fleet.fold(codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data))
    assert wait_s(fleet, fleet.time_ns, entries=1_000, quiet_s=60) == 60
    assert wait_s(fleet, fleet.time_ns + 59 * 10**9, entries=1_000, quiet_s=60) == 1
    assert wait_s(fleet, fleet.time_ns, entries=150, quiet_s=60) == 0
    event = SealPlaced(upto=fleet.seq, digest=fleet.journal_digest)
    fleet.apply(Entry(fleet.seq + 1, fleet.time_ns, "", Aggregate.of_seals(), event, hash="ab"))
    assert (unsealed(fleet), wait_s(fleet, fleet.time_ns + 10**12)) == (0, None)
    assert fleet.seal.upto == 150


@pytest.mark.parametrize("kind", ["memory", "jetstream"])
async def test_two_sealers_seal_once(kind: str):
    """As many as there are orchestrators: of two that seal the same, one finds that nothing is left to do."""
    async with opened(kind) as under_test:  # type: ignore[arg-type]
        store = under_test.store
        projections = [Projection(store.journal) for _ in range(2)]
        following = [await each.start() for each in projections]
        sealing = [
            asyncio.create_task(Sealer(each, actor=f"sealer/{n}", entries=20, quiet_s=3600).run())
            for n, each in enumerate(projections)
        ]
        for n in range(60):
            await store.journal.append([stop(str(n))], actor="test")
        for projection in projections:
            await projection.sync()
        await eventually(lambda: all(unsealed(each.fleet) < 20 for each in projections), "everything is sealed")
        for task in [*sealing, *following]:
            task.cancel()
        await asyncio.gather(*sealing, *following, return_exceptions=True)
        entries = await collected(store.journal.read())
        upto = [event.upto for event in seal_events(entries)]
        assert upto == sorted(set(upto))
        assert 2 <= len(upto) <= 3
        digest, digests = seals.NOTHING, [seals.NOTHING]
        for entry in entries:
            digest = seals.advance(digest, entry.hash, entry.time_ns)
            digests.append(digest)
        assert all(digests[event.upto] == event.digest for event in seal_events(entries))


@pytest.fixture
async def quiet() -> AsyncIterator[tuple[MemoryStore, VirtualClock, Projection]]:
    """A journal on a virtual clock with a sealer that waits a minute."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    projection = Projection(store.journal, clock=clock)
    tasks = [await projection.start(), asyncio.create_task(Sealer(projection, actor="s", clock=clock).run())]
    yield store, clock, projection
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_tail_is_sealed_when_it_is_quiet(quiet: tuple[MemoryStore, VirtualClock, Projection]):
    """A minute after the last entry, once; then never again until something happens. An absent journal is waited for."""
    store, clock, projection = quiet
    await store.journal.append([stop("a")], actor="test")
    await clock.advance(59)
    await store.journal.append([stop("b")], actor="test")
    await clock.advance(59)
    assert seal_events(await collected(store.journal.read())) == []
    store.set_available(available=False)
    await clock.advance(10)
    store.set_available(available=True)
    await clock.advance(70)
    assert [event.upto for event in seal_events(await collected(store.journal.read()))] == [2]
    await clock.advance(3600)
    assert await store.journal.last_sequence() == 3
    await projection.decide(lambda _: [Draft(*_draft())], actor="test")
    await clock.advance(61)
    assert [event.upto for event in seal_events(await collected(store.journal.read()))] == [2, 99, 4]


def _draft() -> tuple[Aggregate, SealPlaced]:
    return Aggregate.of_seals(), SealPlaced(upto=99, digest="nonsense")
