"""A command for each event: an argv, never a shell; JSON on its stdin, the CloudEvents attributes in its environment."""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from typing import Final

import msgspec

from flowctl.errors import UserError
from flowctl.journal.events import Aggregate
from flowctl.journal.log import Entry
from flowctl_cli.entries import entry_view

GRACE_S: Final = 2.0
RETRY_S: Final = 0.5


class Hook:
    """The command. A hook that fails is tried again ``retries`` times; one that lasts longer than ``timeout_s`` is killed."""

    def __init__(self, argv: list[str], *, timeout_s: float, retries: int) -> None:
        self._argv = argv
        self._timeout_s = timeout_s
        self._retries = retries

    async def run(self, entry: Entry) -> str:
        """Run it for one event; empty if it succeeded, else what went wrong the last time."""
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(min(30.0, RETRY_S * 2 ** (attempt - 1)))
            problem = await self._once(entry)
            if not problem:
                return ""
        return f"{problem} (tried {self._retries + 1} times)" if self._retries else problem

    async def _once(self, entry: Entry) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.PIPE, env=environment(entry), start_new_session=True
            )
        except OSError as error:
            return f"cannot be started: {error.strerror or error}"
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.communicate(msgspec.json.encode(entry_view(entry)) + b"\n")
        except TimeoutError:
            return f"took longer than {self._timeout_s:g} s and was ended"
        finally:
            await _end(process)
        code = process.returncode or 0
        return f"was ended by signal {-code}" if code < 0 else f"exited {code}" if code else ""


class Pool:
    """Hooks at work: at most ``parallel`` at once, and one aggregate's events one after the other, in order."""

    def __init__(self, hook: Hook, parallel: int, failed: Callable[[Entry, str], None]) -> None:
        self._hook = hook
        self._failed = failed
        self._slots = asyncio.Semaphore(parallel)
        self._last: dict[Aggregate | None, asyncio.Task[None]] = {}

    async def submit(self, entry: Entry) -> None:
        """Run the hook for an event; returns when there was room for it, not when it has ended."""
        await self._slots.acquire()
        before = self._last.get(entry.aggregate)
        task = asyncio.create_task(self._run(entry, before))
        self._last[entry.aggregate] = task
        task.add_done_callback(lambda done: self._forget(entry.aggregate, done))

    async def end(self) -> None:
        """End the hooks that run."""
        tasks = list(self._last.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, entry: Entry, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            if problem := await self._hook.run(entry):
                self._failed(entry, problem)
        finally:
            self._slots.release()

    def _forget(self, aggregate: Aggregate | None, done: asyncio.Task[None]) -> None:
        if self._last.get(aggregate) is done:
            del self._last[aggregate]


def parse(command: str) -> list[str]:
    """The words of a command, split and quoted as a shell would; nothing else of a shell.

    Raises:
        UserError: it is empty or torn, or there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--exec {command[:80]!r}: {str(error).lower()}") from None
    if not words:
        raise UserError("--exec needs a command", hint="for example --exec './hook.py --verbose'")
    if shutil.which(words[0]) is None:
        raise UserError(f"--exec: there is no program {words[0][:80]!r}", hint="name one on the PATH, or an executable file")
    return words


def environment(entry: Entry) -> dict[str, str]:
    """This environment with the event's CloudEvents attributes: ``CE_ID``, ``CE_TYPE``, ``CE_SUBJECT`` and so on."""
    from flowctl_notify.cloudevents import attributes

    known = {f"CE_{name.upper()}": value.replace("\0", "") for name, value in attributes(entry).items()}
    return {**os.environ, **known}


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the hook and what it has started, if it still runs: SIGTERM, a moment, SIGKILL."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await process.wait()
                return
