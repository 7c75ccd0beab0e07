"""Following output: every line once, however many carry one time, and across an outage of the journal."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from flowctl.errors import JournalUnavailableError
from flowctl.ids import InstanceId
from flowctl.journal.logs import LogLine
from flowctl_cli.commands import logs
from flowctl_cli.commands.logs import RESUME_LINES, Shown, follow_lines
from flowctl_cli.targets import Target


def line(number: int, *, time_ns: int = 1_000, component: str = "a") -> LogLine:
    """Line number so-and-so of an instance."""
    return LogLine(InstanceId("orders", component, 0), 1, "stdout", f"{number}", time_ns, f"{component}/{number}")


def test_lines_of_one_moment_are_all_shown():
    """A program that prints much at once loses nothing of it."""
    shown = Shown()
    assert all(shown.takes(line(number)) for number in range(100))
    assert not shown.takes(line(99)), "stored twice, shown once"


def test_after_an_outage_only_what_is_new_is_shown():
    """Neither what was shown, nor what was before the first line that was asked for; also of those not seen so far."""
    shown = Shown()
    assert not shown.resume(), "nothing was shown, so nothing is resumed"
    assert shown.takes(line(5, time_ns=500))
    assert shown.takes(line(6, time_ns=600))
    assert shown.resume()
    stored = [line(1, time_ns=100, component="b"), *(line(number, time_ns=100 * number) for number in range(4, 9))]
    assert [each.text for each in stored if shown.takes(each)] == ["7", "8"]
    assert shown.takes(line(2, time_ns=50, component="b")), "clocks may be set back"


class _Breaking:
    """Stored output whose journal goes away while it is followed."""

    def __init__(self, *readings: list[LogLine]) -> None:
        self._readings = list(readings)
        self.tails: list[int | None] = []

    async def publish(self, lines: Sequence[LogLine]) -> None:
        """See ``Logs``."""
        raise NotImplementedError

    async def read(
        self,
        pipeline: str,
        *,
        component: str | None = None,
        index: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """See ``Logs``."""
        assert (pipeline, component, index, follow) == ("orders", None, None, True)
        self.tails.append(tail)
        for each in self._readings.pop(0):
            yield each
        if self._readings:
            raise JournalUnavailableError("gone")
        await asyncio.Event().wait()


async def test_an_outage_loses_and_repeats_nothing(monkeypatch: pytest.MonkeyPatch):
    """What was printed while the journal was away comes when it is back; before the first line, the wish stays as it was."""

    async def at_once(_: float) -> None:
        return None

    monkeypatch.setattr(logs.asyncio, "sleep", at_once)
    first, second = [line(1), line(2)], [line(0, time_ns=1), line(1), line(2), line(3)]
    source = _Breaking([], first, second)
    found: list[str] = []
    done = asyncio.Event()

    def show(each: LogLine) -> None:
        found.append(each.text)
        if each.text == "3":
            done.set()

    following = asyncio.create_task(follow_lines(source, Target("orders"), show, tail=0))
    await asyncio.wait_for(done.wait(), 5)
    following.cancel()
    assert found == ["1", "2", "3"]
    assert source.tails == [0, 0, RESUME_LINES]
