"""A child program that answers every line on its standard input with one line on its standard output.

One that fails to is killed: what it would still print could not be told from the answers to the next question.
"""

import asyncio
import logging
import os
import subprocess
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from flowctl.errors import ComponentError
from flowctl_sdk.faults import ComponentFailedError

_READ_BYTES: Final = 1 << 18
_LINE_BYTES: Final = 1 << 16
_LAST_WORDS: Final = 5
_CLOSE_S: Final = 5.0
_LOOK_S: Final = 0.01
_LAST_WORDS_S: Final = 1.0
"""How long to wait for what the program said before its end; what it left running may keep the pipes open for ever."""


class Program:
    """A running program; make one with ``start``. ``spent`` says that it was killed and has to be closed."""

    def __init__(
        self,
        name: str,
        log: logging.Logger,
        process: "subprocess.Popen[bytes]",
        pipes: tuple[StreamWriter, StreamReader, StreamReader],
        outputs: Sequence[asyncio.BaseTransport],
    ) -> None:
        self.name = name
        self._log = log
        self._process = process
        self._stdin, self._stdout, self._stderr = pipes
        self._outputs = outputs
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._answered: list[bytes] = []
        self._unasked = b""
        self._wanted = 0
        self._ended = False
        self.spent = False
        self._complete = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())
        self._reader = asyncio.create_task(self._read())

    @staticmethod
    async def start(command: Sequence[str], env: Mapping[str, str], log: logging.Logger) -> "Program":
        """Start it, with ``env`` added to our environment.

        Not with the event loop's own means: uvloop forks, and a fork of a process with gRPC's threads may stop for ever on a lock
        that one of them held, and the loop with it. ``subprocess`` uses vfork, which runs nothing of ours in the child.

        Raises:
            OSError: if it cannot be started.
            ValueError: if the command or the environment has a NUL in it.
        """
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns when the program begins, milliseconds later
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **env},
        )
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(lambda: StreamReaderProtocol(StreamReader()), process.stdin)
        stdin = StreamWriter(transport, protocol, None, loop)
        readers: list[StreamReader] = []
        outputs: list[asyncio.BaseTransport] = []
        for pipe in (process.stdout, process.stderr):
            reader = StreamReader(limit=_READ_BYTES)
            output, _ = await loop.connect_read_pipe(lambda reader=reader: StreamReaderProtocol(reader), pipe)
            readers.append(reader)
            outputs.append(output)
        return Program(command[0], log, process, (stdin, readers[0], readers[1]), outputs)

    async def ask(self, questions: Sequence[bytes], timeout_s: float) -> list[bytes]:
        """The answers to these lines, without their line breaks, one each.

        Writing and reading go on at the same time, so that neither side can fill a pipe that nobody empties.

        Whatever is raised, the program is killed.

        Raises:
            ComponentFailedError: if the program ends by itself.
            ComponentError: if it is too slow, or prints more lines than it was asked for.
        """
        writer = asyncio.create_task(self._write(b"".join([question + b"\n" for question in questions])))
        try:
            async with asyncio.timeout(timeout_s):
                answers = await self._answers(len(questions))
                await writer
        except TimeoutError:
            self.kill()
            raise ComponentError(f"{self.name!r} did not answer {len(questions)} events within {timeout_s:g} s") from None
        except BaseException:
            self.kill()
            raise
        finally:
            writer.cancel()
        return answers

    def kill(self) -> None:
        """Have done with it: its answers cannot be trusted any more."""
        self.spent = True
        self._process.kill()

    async def close(self) -> None:
        """Close its standard input and wait for its end; kill it if that does not come."""
        self._stdin.close()
        try:
            await self._exit_code(_CLOSE_S)
        except TimeoutError:
            self._log.warning("%s does not end when its input does; killing it", self.name)
            self._process.kill()
            await self._exit_code()
        await asyncio.wait((self._listener, self._reader), timeout=_LAST_WORDS_S)
        for task in (self._listener, self._reader):
            task.cancel()
        await asyncio.gather(self._listener, self._reader, return_exceptions=True)
        for output in self._outputs:
            output.close()

    async def _exit_code(self, timeout_s: float | None = None) -> int:
        """The exit code, negative for a signal, once the program has ended. Raises ``TimeoutError``."""
        async with asyncio.timeout(timeout_s):
            while (code := self._process.poll()) is None:  # noqa: ASYNC110 - nothing tells without a thread or a fork
                await asyncio.sleep(_LOOK_S)
        return code

    async def _write(self, text: bytes) -> None:
        try:
            self._stdin.write(text)
            await self._stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            # Whoever reads the answers finds the end of the program and says so.
            return

    async def _answers(self, count: int) -> list[bytes]:
        if self._unasked:
            raise ComponentError(f"{self.name!r} printed what nobody asked for: {self._unasked!r}")
        self._wanted = count
        self._complete.clear()
        if not self._ended:
            await self._complete.wait()
        self._wanted = 0
        answers, self._answered = b"".join(self._answered), []
        if answers.count(b"\n") < count:
            raise await self._death()
        *lines, rest = answers.split(b"\n", count)
        if rest:
            raise ComponentError(f"{self.name!r} printed more lines than events; beyond the answers: {rest[:120]!r}")
        return lines

    async def _read(self) -> None:
        """Gather what the program prints. What it prints between two questions is only noticed: it would grow without bound."""
        while piece := await self._stdout.read(_READ_BYTES):
            if self._wanted > 0:
                self._answered.append(piece)
                self._wanted = max(0, self._wanted - piece.count(b"\n"))
                if self._wanted == 0:
                    self._complete.set()
            else:
                self._unasked = self._unasked or piece[:120]
        self._ended = True
        self._complete.set()

    async def _death(self) -> ComponentFailedError:
        """The error for a program that closed its output too early."""
        try:
            code = await self._exit_code(_CLOSE_S)
            await asyncio.wait([self._listener], timeout=_CLOSE_S)
        except TimeoutError:
            return ComponentFailedError(f"{self.name!r} closed its standard output and goes on running")
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        words = f"; it said: {' | '.join(self._words)}" if self._words else ""
        return ComponentFailedError(f"{self.name!r} ended with {how}{words}")

    async def _listen(self) -> None:
        """Pass on what the program says on standard error, and remember its last words."""
        rest = b""
        while piece := await self._stderr.read(_LINE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._say(line)
        self._say(rest)

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if text:
            self._words.append(text[:500])
            self._log.info("%s: %s", self.name, text)
