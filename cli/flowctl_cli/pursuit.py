"""Following one pipeline from its submission to where the user wants it: running, or its end."""

import asyncio
import contextlib
import math
import time
from typing import Final

import msgspec

from flowctl import api
from flowctl.api import InstanceView, PipelineView
from flowctl.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TIMED_OUT,
    ControlPlaneUnreachableError,
    DeadlineError,
    JournalUnavailableError,
)
from flowctl.journal.logs import LogLine, Logs
from flowctl.journal.subjects import JOURNAL_ROOT
from flowctl_cli import plane, questions
from flowctl_cli.board import about, ended
from flowctl_cli.commands.down import lost_hosts, still_there
from flowctl_cli.commands.logs import follow_lines
from flowctl_cli.plane import Plane
from flowctl_cli.session import Session
from flowctl_cli.show import Show
from flowctl_cli.targets import Target
from flowctl_cli.terminal import age
from flowctl_cli.upkeep import Upkeep

TICK_S: Final = 1.0
GATHER_S: Final = 0.05
CALL_S: Final = 5.0
AGAIN_S: Final = 0.3
LAST_LINES: Final = 5
QUIET_S: Final = 0.25
MAX_OUTPUT_S: Final = 3.0
SAME_S: Final = 0.1
"""Interrupts that come closer together are one."""


class Interrupts:
    """How often the user has asked to stop."""

    def __init__(self) -> None:
        self.count = 0
        self.happened = asyncio.Event()
        self._last_s = -math.inf

    def hit(self) -> None:
        """Once more. Programs that run this one pass the terminal's Ctrl-C on, which arrives twice then: once is meant."""
        now_s = time.monotonic()
        if now_s - self._last_s >= SAME_S:
            self.count += 1
        self._last_s = now_s
        self.happened.set()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Where the pipeline is when the pursuit ends, and the command's exit code for that."""

    code: int
    sentence: str
    pipeline: PipelineView | None = None


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """How far to follow: until it runs, or until it has ended.

    ``timeout_s`` limits the time until it runs; ``streams`` are the outputs of the instances that are shown meanwhile.
    """

    until_running: bool
    timeout_s: float | None = None
    streams: frozenset[str] = frozenset()


class Pursuit:
    """One pipeline being followed. Survives the loss of the control plane: the data flows on, and the server is started again."""

    def __init__(
        self, session: Session, submitted: api.Submitted, goal: Goal, *, upkeep: Upkeep, show: Show, interrupts: Interrupts
    ) -> None:
        self._session = session
        self._name = submitted.pipeline
        self._seq = submitted.seq
        self._upkeep = upkeep
        self._show = show
        self._interrupts = interrupts
        self._goal = goal
        self._news = asyncio.Event()
        self._view: PipelineView | None = None
        self._has_run = False
        self._stop_asked = False
        self._stop_sent = False
        self._timed_out = False
        self._printed = asyncio.Event()

    async def run(self, control: Plane) -> Outcome:
        """Follow with the connection that there is, and with new ones when it is lost."""
        deadline = None if self._goal.timeout_s is None else asyncio.get_running_loop().time() + self._goal.timeout_s
        current: Plane | None = control
        lost = False
        while True:
            try:
                if current is not None:
                    return await self._follow(current, deadline)
                async with plane.opened(self._session, timeout_s=CALL_S) as again:
                    if lost:
                        self._show.tell("the control plane is back")
                    lost = False
                    return await self._follow(again, deadline)
            except (ControlPlaneUnreachableError, JournalUnavailableError, DeadlineError) as error:
                current = None
                if not lost:
                    self._show.tell(f"the control plane is lost ({error.message}); the data flows on")
                lost = True
                if self._interrupts.count > 1:
                    return self._left()
                await asyncio.to_thread(self._upkeep.renew)
                await asyncio.sleep(AGAIN_S)

    async def _follow(self, control: Plane, deadline: float | None) -> Outcome:
        tasks = [asyncio.create_task(self._listen(control))]
        if self._goal.streams:
            tasks.append(asyncio.create_task(self._print_logs(control.store.logs)))
        try:
            while True:
                outcome = await self._step(control, deadline)
                if outcome is not None:
                    await self._last_output()
                    return outcome
                for task in tasks:
                    if task.done():
                        task.result()
                await self._pause(deadline)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, control: Plane) -> None:
        """Every entry about the pipeline is a reason to look."""
        async for _ in control.store.journal.follow(after=self._seq, subject=f"{JOURNAL_ROOT}.*.{self._name}.>"):
            self._news.set()

    async def _print_logs(self, logs: Logs) -> None:
        def show(line: LogLine) -> None:
            if line.stream in self._goal.streams:
                self._printed.set()
                self._show.log(line)

        await follow_lines(logs, Target(self._name), show, tail=0)

    async def _last_output(self) -> None:
        """Let what the instances printed last arrive: until nothing has come for a moment."""
        if not self._goal.streams:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_OUTPUT_S):
                while True:
                    self._printed.clear()
                    async with asyncio.timeout(QUIET_S):
                        await self._printed.wait()

    async def _pause(self, deadline: float | None) -> None:
        """Wait for news, an interrupt, the deadline, or for the next time to look at the rates."""
        loop = asyncio.get_running_loop()
        until = loop.time() + TICK_S
        if deadline is not None and not self._has_run and not self._timed_out:
            until = min(until, deadline)
        waits = [asyncio.create_task(self._news.wait()), asyncio.create_task(self._interrupts.happened.wait())]
        await asyncio.wait(waits, timeout=max(0.0, until - loop.time()), return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._interrupts.happened.is_set():
            await asyncio.sleep(GATHER_S)  # entries come in bursts; one look is enough for all of them

    async def _step(self, control: Plane, deadline: float | None) -> Outcome | None:
        """Look once, do what is due, and say whether this is the end."""
        self._news.clear()
        self._interrupts.happened.clear()
        found = await questions.board(control, self._name)
        view = self._view = found.status.pipelines[0]
        self._show.look(found)
        # One that has failed is not late: it only waits for its last instances to go.
        self._has_run = self._has_run or view.status == "running" or ended(view)
        if ended(view) and (view.status == "completed" or not still_there(view, lost_hosts(found.status))):
            return await self._ended(control, view)
        if self._interrupts.count > 1:
            return self._left()
        if self._goal.until_running and view.status == "running":
            count = len(view.instances)
            sentence = f"{self._name} runs with {count} {'instance' if count == 1 else 'instances'}"
            return Outcome(code=EXIT_DONE, sentence=sentence, pipeline=view)
        if deadline is not None and not self._has_run and asyncio.get_running_loop().time() >= deadline:
            if self._goal.until_running:
                return self._late(view)
            self._timed_out = self._stop_asked = True
        await self._stop_if_asked(control)
        return None

    async def _stop_if_asked(self, control: Plane) -> None:
        if self._interrupts.count and not self._stop_asked:
            if self._goal.until_running:
                self._interrupts.count = 2
                self._interrupts.happened.set()
                return
            self._stop_asked = True
            self._show.tell(
                f"stopping {self._name}: sources first, what is under way is drained (Ctrl-C again leaves it to itself)"
            )
        if self._stop_asked and not self._stop_sent:
            await control.ask(api.ORCHESTRATOR, "stop", api.Stop(pipeline=self._name, reason="interrupted"), api.Done)
            self._stop_sent = True
            self._news.set()

    async def _ended(self, control: Plane, view: PipelineView) -> Outcome:
        if self._timed_out:
            sentence = f"{self._name} did not run within {self._goal.timeout_s:g} s and was stopped"
            return Outcome(code=EXIT_TIMED_OUT, sentence=sentence, pipeline=view)
        if view.status == "failed":
            why = await explain(control, view)
            return Outcome(code=EXIT_FAILED, sentence="\n".join([f"{self._name} has failed: {view.reason}", *why]), pipeline=view)
        if view.status == "completed":
            sentence = f"{self._name} has completed after {age(view.since_ms - view.submitted_ms)}"
            return Outcome(code=EXIT_DONE, sentence=sentence, pipeline=view)
        code = EXIT_INTERRUPTED if self._interrupts.count else EXIT_DONE
        reason = f": {view.reason}" if view.reason and not self._interrupts.count else ""
        return Outcome(code=code, sentence=f"{self._name} is {view.status}{reason}", pipeline=view)

    def _left(self) -> Outcome:
        left = still_there(self._view) if self._view is not None else []
        lines = [f"left running: {line}" for line in left] or [f"{self._name} is left to itself"]
        lines.append(f"`flowctl status {self._name}` shows it, `flowctl down {self._name}` ends it")
        return Outcome(code=EXIT_INTERRUPTED, sentence="\n".join(lines), pipeline=self._view)

    def _late(self, view: PipelineView) -> Outcome:
        reasons = [f"  {each.instance} is {each.phase}{_why(each)}" for each in view.instances if not _well(each)]
        head = f"{self._name} does not run after {self._goal.timeout_s:g} s; it goes on trying:"
        return Outcome(code=EXIT_TIMED_OUT, sentence="\n".join([head, *reasons]), pipeline=view)


def _well(instance: InstanceView) -> bool:
    return instance.phase == "completed" or (instance.phase == "running" and instance.status == "healthy")


def _why(instance: InstanceView) -> str:
    words = about(instance)
    return f": {words}" if words else ""


async def explain(control: Plane, view: PipelineView) -> list[str]:
    """Why a pipeline failed: for each instance that did, the reason, how it last ended and what it last said."""
    guilty = [each for each in view.instances if each.phase == "failed"] or [each for each in view.instances if each.last_exit]
    lines: list[str] = []
    for instance in guilty:
        lines.append(
            f"  {instance.instance}: {'; '.join(dict.fromkeys(word for word in (instance.reason, instance.last_exit) if word))}"
        )
        with contextlib.suppress(JournalUnavailableError, TimeoutError):
            async with asyncio.timeout(CALL_S):
                lines += [f"    | {text}" for text in await _last_lines(control.store.logs, view.name, instance)]
    return lines


async def _last_lines(logs: Logs, pipeline: str, instance: InstanceView) -> list[str]:
    found = [line async for line in logs.read(pipeline, component=instance.component, index=instance.index, tail=50)]
    errors = [line.text for line in found if line.stream == "stderr"]
    return (errors or [line.text for line in found])[-LAST_LINES:]
