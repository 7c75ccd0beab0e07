"""Dead letters at the registry: who may put them aside, who gets them again, and what is remembered of that."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from flowctl import api
from flowctl.control.v1 import control_pb2 as pb
from flowctl.errors import NotFoundError
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentLettersRedriven, ComponentRedriveRequested
from flowctl.journal.letters import Envelope
from flowctl.journal.memory import MemoryStore
from flowctl_registry.redrives import request as redrive_request
from flowctl_registry.requests import RedriveWish
from flowctl_sdk import Event
from flowctl_sdk.control import Registry
from flowctl_sdk.inbox import Inbox
from flowctl_sdk.redrives import Redrives
from flowctl_sdk.signals import Bell
from support.registries import RunningRegistry, instance, registration, registry_on

Code = grpc.StatusCode
PARSE = InstanceId("stray", "parse", 0)


@pytest.fixture
async def registry() -> AsyncIterator[RunningRegistry]:
    """A registry with the source ``stray.tool.0`` and the processor ``stray.parse.0``."""
    async with registry_on(MemoryStore()) as running:
        await running.stub.RegisterComponent(registration())
        await running.stub.RegisterComponent(registration(instance("parse"), kind=pb.KIND_PROCESSOR))
        yield running


def put(position: int = 1, who: pb.Instance | None = None, **fields: Any) -> pb.PutDeadLetterRequest:
    """A letter that is in order unless told otherwise."""
    known: dict[str, Any] = {"origin": "tool.0", "position": position, "payload": b"x", "error": "ValueError: x", "attempts": 2}
    return pb.PutDeadLetterRequest(instance=who or instance("parse"), letter=pb.DeadLetter(**{**known, **fields}))


def settle(*outcomes: pb.RedriveOutcome) -> pb.SettleRedrivesRequest:
    """What came of letters."""
    return pb.SettleRedrivesRequest(instance=instance("parse"), outcomes=outcomes)


async def redrive(registry: RunningRegistry, *numbers: int, component: str | None = "parse") -> api.Redriving:
    """What ``flowctl dead-letters redrive`` asks."""
    request = api.RedriveLetters(pipeline="stray", component=component, letters=list(numbers))
    return await registry.service.letters.redrive(request)


async def sent(watch: Any) -> pb.Redrive:
    """The next message of a watch."""
    message = await watch.read()
    assert isinstance(message, pb.Redrive)
    return message


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the sentence of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_letter_is_kept_with_everything(registry: RunningRegistry):
    """Answered once it is stored; a repetition has the same number; a long error is cut and cleaned."""
    request = put(7, path="/split.0", type="line", time_ns=5, metadata={"a": "b"}, error="x\x00" * 9_000)
    answer = await registry.stub.PutDeadLetter(request)
    assert (await registry.stub.PutDeadLetter(request)).number == answer.number
    stored = await registry.store.dead_letters.get(answer.number)
    letter = stored.letter
    assert (letter.instance, letter.event_id, letter.type, letter.time_ns) == (PARSE, "tool.0:7/split.0", "line", 5)
    assert (letter.metadata, letter.attempts, stored.payload) == ({"a": "b"}, 2, b"x")
    assert len(letter.error) == 4_096
    assert "\x00" not in letter.error


GARBAGE = [
    (put(origin="*"), "letter.origin is '*'"),
    (put(origin=""), "letter.origin is ''"),
    (put(2**63), "letter.position is"),
    (put(path="x y"), "letter.path is 'x y'"),
    (put(attempts=0), "letter.attempts is 0"),
    (pb.PutDeadLetterRequest(instance=instance("parse")), "letter is missing"),
    (put(who=instance("tool")), "stray.tool.0 is a source"),
    (put(who=instance(">")), "is not a valid component id"),
]


@pytest.mark.parametrize(("request_", "sentence"), GARBAGE, ids=[sentence for _, sentence in GARBAGE])
async def test_what_is_no_letter(registry: RunningRegistry, request_: pb.PutDeadLetterRequest, sentence: str):
    """Is the caller's mistake, named by its field; nothing is stored."""
    code, detail = await refused(registry.stub.PutDeadLetter(request_))
    assert code == Code.INVALID_ARGUMENT
    assert sentence in detail
    assert await registry.store.dead_letters.envelopes("stray") == []


async def test_who_may_not_speak(registry: RunningRegistry):
    """A foreign instance, an old incarnation, garbage: refused by all three calls."""
    assert (await refused(registry.stub.PutDeadLetter(put(who=instance("nobody")))))[0] == Code.NOT_FOUND
    await registry.stub.RegisterComponent(
        registration(instance("parse", incarnation=5), kind=pb.KIND_PROCESSOR, boot_id="boot-5")
    )
    old = (Code.FAILED_PRECONDITION, "stray.parse.0 is superseded by incarnation 5")
    assert await refused(registry.stub.PutDeadLetter(put())) == old
    assert await refused(registry.stub.SettleRedrives(settle())) == old
    assert await refused(registry.stub.WatchRedrives(pb.WatchRedrivesRequest(instance=instance("parse"))).read()) == old
    for method in ("PutDeadLetter", "SettleRedrives"):
        assert (await refused(registry.send(method, b"\x0a\xff\xff")))[0] == Code.INVALID_ARGUMENT
    many = settle(*[pb.RedriveOutcome(number=n) for n in range(257)])
    assert (await refused(registry.stub.SettleRedrives(many))) == (
        Code.INVALID_ARGUMENT,
        "outcomes has 257 entries, at most 256 are allowed",
    )


async def test_a_full_store_and_an_absent_one(registry: RunningRegistry):
    """The component hears which of the two it is, keeps the event, and tries again."""
    store = registry.store
    assert isinstance(store, MemoryStore)
    store.dead_letters.max_bytes = 10
    code, detail = await refused(registry.stub.PutDeadLetter(put()))
    assert code == Code.RESOURCE_EXHAUSTED
    assert "no room" in detail
    store.set_available(available=False)
    assert (await refused(registry.stub.PutDeadLetter(put())))[0] == Code.UNAVAILABLE


async def test_letters_go_to_the_component_again(registry: RunningRegistry):
    """What is wanted comes at once and whenever more is; on a new stream what is not settled comes again; outcomes stay."""
    numbers = [(await registry.stub.PutDeadLetter(put(n))).number for n in range(3)]
    watch = registry.stub.WatchRedrives(pb.WatchRedrivesRequest(instance=instance("parse")))
    assert (await sent(watch)).caught_up
    done = await redrive(registry, numbers[1])
    assert (done.letters, done.instances, done.absent) == ([numbers[1]], [str(PARSE)], [])
    letter = await sent(watch)
    assert (letter.number, letter.letter.position, letter.letter.payload) == (numbers[1], 1, b"x")
    assert (await sent(watch)).caught_up
    assert (await redrive(registry)).letters == [numbers[0], numbers[2]]
    assert [(await sent(watch)).number for _ in range(2)] == [numbers[0], numbers[2]]
    assert (await redrive(registry)).letters == []

    await registry.stub.SettleRedrives(
        settle(
            pb.RedriveOutcome(number=numbers[1], delivered=True),
            pb.RedriveOutcome(number=numbers[0], error="still bad"),
            pb.RedriveOutcome(number=99, delivered=True),
        )
    )
    await registry.stub.SettleRedrives(settle(pb.RedriveOutcome(number=numbers[1], delivered=True)))
    facts = [event for event in await registry.events() if isinstance(event, ComponentLettersRedriven)]
    assert [(fact.letters, fact.outcome, fact.error) for fact in facts] == [
        ([numbers[1]], "delivered", ""),
        ([numbers[0]], "failed", "still bad"),
    ]
    again = registry.stub.WatchRedrives(pb.WatchRedrivesRequest(instance=instance("parse")))
    assert [(await sent(again)).number for _ in range(2)] == [numbers[2], 0]
    # All that were never delivered; one that was only by name.
    assert (await redrive(registry)).letters == [numbers[0]]
    assert (await redrive(registry, numbers[1])).letters == [numbers[1]]
    with pytest.raises(NotFoundError, match=r"stray.parse has no dead letter 99"):
        await redrive(registry, 99)


async def test_a_purged_letter_is_settled(registry: RunningRegistry):
    """A letter that somebody has purged meanwhile does not stay under way for ever."""
    await registry.append(Aggregate.of_instance(PARSE), ComponentRedriveRequested(letters=[77]))
    watch = registry.stub.WatchRedrives(pb.WatchRedrivesRequest(instance=instance("parse")))
    assert (await sent(watch)).caught_up
    (fact,) = [event for event in await registry.events() if isinstance(event, ComponentLettersRedriven)]
    assert (fact.letters, fact.outcome, fact.error) == ([77], "failed", "the letter is not there any more")


def test_a_pipeline_that_nobody_knows():
    """Cannot be asked to redrive."""
    decision = redrive_request(Fleet(), RedriveWish(pipeline="absent"), [Envelope(1, InstanceId("absent", "a", 0))])
    assert getattr(decision, "message", "") == "there is no pipeline 'absent'"


async def test_a_component_waits_until_its_letter_is_kept(registry: RunningRegistry):
    """While there is no journal, or no room, the component holds on to the event; nothing counts as done before it is stored."""
    store = registry.store
    assert isinstance(store, MemoryStore)
    client = Registry([registry.service.address], registration(instance("parse"), kind=pb.KIND_PROCESSOR))
    redrives = Redrives(client, Inbox(), Bell())
    store.set_available(available=False)
    keeping = asyncio.create_task(redrives.keep(Event(b"x", 0, 7, "tool.0"), "ValueError: x", 1))
    done, _ = await asyncio.wait({keeping}, timeout=0.3)
    assert not done
    store.dead_letters.max_bytes = 0
    store.set_available(available=True)
    done, _ = await asyncio.wait({keeping}, timeout=0.3)
    assert not done
    store.dead_letters.max_bytes = 1_000_000
    await asyncio.wait_for(keeping, 10)
    assert [stored.letter.event_id async for stored in store.dead_letters.read("stray")] == ["tool.0:7"]
    await client.close()
