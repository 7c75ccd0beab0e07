"""Windows: what they hold, that nothing is lost or held too long, and what is refused."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.errors import InvalidSettingError
from flowctl_sdk import Context, Event, Processor, Window, processor
from flowctl_sdk.acks import AckLog, Held
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.inbox import Arrival
from flowctl_sdk.testing import process
from flowctl_sdk.windows import MAX_BYTES, MAX_COUNT, Gathering


def columns(first: int, count: int, size: int = 1) -> Columns:
    return Columns([b"x" * size] * count, [0] * count, range(first, first + count), Names(["a.0"]), Names(), Names(), {})


@given(st.integers(1, 12), st.lists(st.integers(1, 40), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_windows_cut_batches_and_acks_follow(count: int, batches: list[int], random: Random):
    """Whatever the batches: windows have exactly ``count`` events in order, and no ack is ahead of a window that is not done.

    Windows may be done in any order; once all are, everything but the open window is acknowledged, to the event.
    """
    acked = [-1]
    log: AckLog[int] = AckLog(acked.append)
    gathering = Gathering(Window(count=count))
    made: list[tuple[list[int], list[Held]]] = []
    total = 0
    for size in batches:
        rest: Arrival | None = Arrival(columns(total, size), log.open(total + size - 1))
        total += size
        while rest is not None:
            rest = gathering.add(rest, 0)
            if gathering.full:
                events, pendings = gathering.close()
                made.append((list(events.positions), pendings))
    assert [window for window, _ in made] == [list(range(n, n + count)) for n in range(0, total - count + 1, count)]
    assert len(gathering) == total % count
    order = list(range(len(made)))
    random.shuffle(order)
    done: set[int] = set()
    for number in order:
        for pending in made[number][1]:
            pending.release()
        done.add(number)
        contiguous = next((n for n in range(len(made)) if n not in done), len(made))
        # A batch's pieces are acknowledged one by one, so an ack may be inside the next window only if that is done too.
        assert acked[-1] == contiguous * count - 1
    assert acked == sorted(acked)


def test_a_window_is_bounded_in_bytes():
    """The event that reaches 4 MiB is the window's last, wherever the batches end."""
    for batch in (1, 3, 8):
        gathering = Gathering(Window())
        log: AckLog[int] = AckLog(lambda _: None)
        sizes: list[int] = []
        for first in range(0, 24, batch):
            rest: Arrival | None = Arrival(columns(first, batch, MAX_BYTES // 4 - 1), log.open(first + batch - 1))
            while rest is not None:
                rest = gathering.add(rest, 0)
                if gathering.full:
                    sizes.append(len(gathering.close()[0]))
        assert sizes == [5, 5, 5, 5]


def test_the_time_begins_with_the_first_event():
    """The deadline is that of the oldest event in the window."""
    gathering = Gathering(Window(seconds=2))
    log: AckLog[int] = AckLog(lambda _: None)
    gathering.add(Arrival(columns(0, 1), log.open(0)), 7)
    gathering.add(Arrival(columns(1, 1), log.open(1)), 1_000_000_000)
    assert gathering.deadline_ns == 2_000_000_007
    gathering.close()
    gathering.add(Arrival(columns(2, 1), log.open(2)), 5)
    assert gathering.deadline_ns == 2_000_000_005


@processor(window=Window(count=3))
def summed(events: list[Event]) -> dict[str, int]:
    """The sum of three."""
    return {"sum": sum(event.json()["n"] for event in events)}


class Spread(Processor):
    """The least and the greatest of a window whose size the configuration says; nothing of a window that is too flat."""

    async def open(self, ctx: Context) -> None:
        self.window = Window(count=ctx.config["count"])

    async def process(self, events: list[Event]) -> list[str] | None:
        numbers = [event.json()["n"] for event in events]
        return [str(min(numbers)), str(max(numbers))] if max(numbers) - min(numbers) > 1 else None


async def test_a_function_gets_windows():
    """The test kit makes windows too; outputs derive from the last event, and the last window may be shorter."""
    outputs = await process(summed, [{"n": n} for n in range(7)])
    assert [(event.id, event.json()["sum"]) for event in outputs] == [
        ("test.0:2/summed.0", 3),
        ("test.0:5/summed.0", 12),
        ("test.0:6/summed.0", 6),
    ]


async def test_a_class_chooses_its_window_when_it_opens():
    """A list is several outputs, None is none."""
    outputs = await process(Spread, [{"n": n} for n in (1, 5, 3, 3, 3, 4, 9, 0)], config={"count": 4})
    assert [(event.id, event.payload) for event in outputs] == [
        ("test.0:3/spread.0", b"1"),
        ("test.0:3/spread.1", b"5"),
        ("test.0:7/spread.0", b"0"),
        ("test.0:7/spread.1", b"9"),
    ]


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (Window(count=0), "has 1 to 4,096 events"),
        (Window(count=MAX_COUNT + 1), r"Window\(count=4097\)"),
        (Window(seconds=0), "more than 0 and at most 300 seconds"),
        (Window(seconds=float("nan")), "more than 0"),
        (Window(seconds=301), "more than 0"),
    ],
)
async def test_a_window_that_cannot_be_kept_is_refused(window: Window, said: str):
    """With the bound, before the first event."""

    @processor(window=window)
    def never(events: list[Event]) -> None:
        raise AssertionError(events)

    with pytest.raises(InvalidSettingError, match=said):
        await process(never, [b"x"])
