"""Instances as processes of this host, each beside a shim (``flowctl_agent.shim``) that outlives the agent.

Who runs is known from the run directories' locks, who has ended from process descriptors, at once. A shim that is killed takes
its component with it; what else it leaves is found and killed before the run counts as ended.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Final

import msgspec

from flowctl import paths
from flowctl.errors import DriverError
from flowctl.ids import InstanceId
from flowctl.spec.model import Driver as DriverName
from flowctl_agent.drivers import Launch, OutputChunk, Run, RunKey, segments
from flowctl_agent.drivers.inotify import Inotify
from flowctl_agent.drivers.processes import Process, same, sweep
from flowctl_agent.drivers.rundir import ExitRecord, LaunchRecord, RunDirectory, RunningRecord, run_directories
from flowctl_agent.shim import start

HANDSHAKE_S: Final = 30.0
KILL_S: Final = 10.0
POLL_OUTPUT_S: Final = 0.25
LAST_WORDS: Final = 10
LAST_WORDS_BYTES: Final = 2_000
_ADOPT_STEP_S: Final = 0.01
_SHIM: Final = Path(start.__file__).resolve()

log = logging.getLogger("flowctl.agent.process")


class _Live(msgspec.Struct):
    """A run that lives, and the shim's process."""

    run: Run
    process: Process
    ended: asyncio.Event


class ProcessDriver:
    """See ``Driver``. ``kept_runs`` exited runs of each instance keep their output."""

    name: DriverName = "process"

    def __init__(self, state_dir: Path, *, log_file_bytes: int, log_files: int, kept_runs: int) -> None:
        self._instances = paths.instances_dir(state_dir)
        self._log_file_bytes = log_file_bytes
        self._log_files = log_files
        self._kept_runs = kept_runs
        self._live: dict[RunKey, _Live] = {}
        self._exited: dict[RunKey, Run] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._exit_listeners: list[Callable[[Run], None]] = []
        self._output_listeners: list[Callable[[RunKey], None]] = []
        self._inotify: Inotify | None = None
        self._keys: dict[Path, RunKey] = {}
        self._unwatched: set[RunKey] = set()
        self._poll: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """See ``Driver``."""
        try:
            self._instances.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DriverError(f"the state directory cannot be used: {error}", hint="set state_dir") from error
        self._inotify = Inotify.open("output-", self._written)
        for directory in run_directories(self._instances):
            if not directory.forgotten:
                await self._adopt(directory)

    async def close(self) -> None:
        """See ``Driver``."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        for live in self._live.values():
            live.process.close()
        self._live.clear()
        if self._inotify is not None:
            self._inotify.close()
        if self._poll is not None:
            self._poll.cancel()

    async def start(self, launch: Launch) -> Run:
        """See ``Driver``."""
        if any(key.instance == launch.key.instance for key in self._live):
            raise DriverError(f"{launch.key.instance} runs already")
        directory = RunDirectory(self._instances, launch.key)
        cwd = launch.cwd or directory.state_path
        try:
            lock = directory.create(launch, cwd)
        except BlockingIOError as error:
            raise DriverError(f"{launch.key.instance} runs already: {error}") from error
        except OSError as error:
            raise DriverError(f"the run directory cannot be made: {error}") from error
        try:
            pid, answer = _spawn(directory, self._input(launch, directory, cwd), lock)
        except OSError as error:
            directory.remove()
            raise DriverError(f"the program could not be started: {error.strerror or error}") from error
        finally:
            os.close(lock)
        run = Run(key=launch.key, assignment=launch.assignment, state="running", stop_timeout_s=launch.stop_timeout_s)
        live = self._track(run, Process(pid), directory)
        await self._handshake(answer, live)
        record = directory.running()
        if record is not None and launch.key in self._live:
            live.run = msgspec.structs.replace(run, handle=str(record.pid), started_ns=record.started_ns)
            return live.run
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(live.ended.wait(), KILL_S)
        return self._exited.get(launch.key, live.run)

    async def stop(self, key: RunKey, timeout_s: float) -> None:
        """See ``Driver``."""
        live = self._live.get(key)
        if live is None:
            return
        for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGUSR1, KILL_S), (signal.SIGKILL, KILL_S)):
            live.process.send(number)
            live.process.send(signal.SIGCONT)  # a stopped shim could not obey
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.ended.wait(), patience_s)
                return
        raise DriverError(f"{key} could not be ended")

    async def list(self, instance: InstanceId | None = None) -> list[Run]:
        """See ``Driver``."""
        runs = [live.run for live in self._live.values()] + [*self._exited.values()]
        return sorted((run for run in runs if instance in (None, run.key.instance)), key=lambda run: run.key)

    async def forget(self, key: RunKey) -> None:
        """See ``Driver``."""
        if self._exited.pop(key, None) is None:
            return
        RunDirectory(self._instances, key).mark_forgotten()
        forgotten = [each for each in run_directories(self._instances, key.instance) if each.forgotten]
        for directory in forgotten[: -self._kept_runs]:
            directory.remove()

    async def tidy(self, pipelines: Collection[str]) -> None:
        """See ``Driver``: processes share nothing."""

    def absence(self) -> str | None:
        """See ``Driver``: processes can always be started."""
        return None

    def on_exit(self, listener: Callable[[Run], None]) -> None:
        """See ``Driver``."""
        self._exit_listeners.append(listener)

    def on_output(self, listener: Callable[[RunKey], None]) -> None:
        """See ``Driver``."""
        self._output_listeners.append(listener)

    def outputs(self) -> "list[RunKey]":
        """See ``Driver``."""
        return [directory.key for directory in run_directories(self._instances)]

    def read_output(self, key: RunKey, position: int, limit_bytes: int) -> OutputChunk:
        """See ``Driver``."""
        return segments.read(self.directory(key), position, limit_bytes)

    def directory(self, key: RunKey) -> Path:
        """See ``Driver``."""
        return RunDirectory(self._instances, key).path

    # --- starting and adopting

    def _input(self, launch: Launch, directory: RunDirectory, cwd: Path) -> bytes:
        """What the shim reads: see there."""
        env = {
            **launch.env,
            "FLOWCTL_CONFIG_FILE": str(directory.config_path),
            "FLOWCTL_STATE_DIR": str(directory.state_path),
        }
        pairs = [f"{name}={value}" for name, value in env.items()]
        numbers = [str(launch.stop_timeout_s), str(self._log_file_bytes), str(self._log_files)]
        fields = [str(cwd), *numbers, str(len(launch.argv)), *launch.argv, str(len(launch.secrets)), *launch.secrets, *pairs]
        if any("\0" in field for field in fields):
            raise OSError(errno.EINVAL, "an argument or a variable holds a NUL character")
        return b"".join(os.fsencode(field) + b"\0" for field in fields)

    async def _handshake(self, answer: int, live: _Live) -> None:
        """Wait until the shim has started the program or given up."""
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        loop.add_reader(answer, heard.set)
        try:
            await asyncio.wait_for(heard.wait(), HANDSHAKE_S)
        except TimeoutError:
            log.error("the shim of %s does not answer", live.run.key)  # noqa: TRY400  # there is no more to know
            live.process.send(signal.SIGKILL)
        finally:
            loop.remove_reader(answer)
            os.close(answer)

    async def _adopt(self, directory: RunDirectory) -> None:
        """Take over what another agent has started."""
        launched = directory.launched()
        if launched is None:  # torn by a power failure: nothing of it can live
            directory.mark_forgotten()
            return
        record = await self._record_of_living(directory)
        run = _run(directory, launched, record)
        if record is not None and same(record):
            with contextlib.suppress(ProcessLookupError):
                process = Process(record.shim)
                if directory.alive() and same(record):
                    self._track(run, process, directory)
                    log.info("adopted", extra={"run": str(run.key), "pid": record.pid})
                    return
                process.close()
        await self._bury(directory, run)

    async def _record_of_living(self, directory: RunDirectory) -> RunningRecord | None:
        """The record of a run, waiting for it while its shim is only just beginning."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDSHAKE_S):
                while directory.running() is None and directory.alive():  # noqa: ASYNC110  # another process does it
                    await asyncio.sleep(_ADOPT_STEP_S)
        return directory.running()

    def _track(self, run: Run, process: Process, directory: RunDirectory) -> _Live:
        live = self._live[run.key] = _Live(run, process, asyncio.Event())

        def ended() -> None:
            task = asyncio.create_task(self._bury(directory, live.run), name=f"exit-{run.key}")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

        process.watch(ended)
        self._keys[directory.path] = run.key
        if self._inotify is None or not self._inotify.add(directory.path):
            self._unwatched.add(run.key)
            self._look_for_output()
        return live

    # --- ending

    async def _bury(self, directory: RunDirectory, run: Run) -> None:
        """The run's shim is gone: make sure of the rest, and say how it ended."""
        ended = directory.exited()
        if ended is None:
            marker = f"FLOWCTL_CONFIG_FILE={directory.config_path}"
            if not await sweep(directory.running(), marker):
                log.error("something of %s could not be killed", run.key)
        with contextlib.suppress(OSError):
            directory.drop_secrets()
        launched = directory.launched()
        run = _exited(run, ended, launched)
        words = segments.last_words(directory.path, LAST_WORDS, LAST_WORDS_BYTES)
        run = msgspec.structs.replace(run, last_words=words)
        self._exited[run.key] = run
        live = self._live.pop(run.key, None)
        self._keys.pop(directory.path, None)
        self._unwatched.discard(run.key)
        if self._inotify is not None:
            self._inotify.remove(directory.path)
        if live is not None:
            live.ended.set()
            for heard in self._output_listeners:
                heard(run.key)
            for listener in self._exit_listeners:
                listener(run)

    # --- output

    def _written(self, path: Path | None) -> None:
        keys = [*self._live] if path is None else [self._keys[path]] if path in self._keys else []
        for key in keys:
            for listener in self._output_listeners:
                listener(key)

    def _look_for_output(self) -> None:
        """Where the kernel does not tell: say that there may be output, now and then."""
        if self._poll is not None:
            self._poll.cancel()
        self._poll = None
        for key in self._unwatched:
            for listener in self._output_listeners:
                listener(key)
        if self._unwatched:
            self._poll = asyncio.get_running_loop().call_later(POLL_OUTPUT_S, self._look_for_output)


def _spawn(directory: RunDirectory, data: bytes, lock: int) -> tuple[int, int]:
    """Start a shim: its pid, and the pipe on which it answers."""
    answer_r, answer_w = os.pipe()
    try:
        with _sealed(data) as given, (directory.path / "shim.err").open("wb") as errors:
            argv = [sys.executable, "-I", "-S", str(_SHIM), str(directory.path)]
            actions = [
                (os.POSIX_SPAWN_DUP2, given, 0),
                (os.POSIX_SPAWN_DUP2, answer_w, 1),
                (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
                (os.POSIX_SPAWN_DUP2, lock, 3),
            ]
            clean = [signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
            # Its environment is empty: the component's goes through the descriptor, where no process listing shows it.
            pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions, setsid=True, setsigmask=[], setsigdef=clean)
    except BaseException:
        os.close(answer_r)
        raise
    finally:
        os.close(answer_w)
    return pid, answer_r


@contextlib.contextmanager
def _sealed(data: bytes) -> Generator[int]:
    """A descriptor from which the data can be read, and which has no name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("flowctl-launch")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _run(directory: RunDirectory, launched: LaunchRecord, record: RunningRecord | None) -> Run:
    return Run(
        key=directory.key,
        assignment=launched.assignment,
        state="running",
        handle=str(record.pid) if record is not None else "",
        started_ns=record.started_ns if record is not None else 0,
        stop_timeout_s=launched.stop_timeout_s,
    )


def _exited(run: Run, ended: ExitRecord | None, launched: LaunchRecord | None) -> Run:
    if ended is None:
        return msgspec.structs.replace(run, state="exited")
    return msgspec.structs.replace(
        run,
        state="exited",
        code=ended.code,
        signal=ended.signal,
        stopped=ended.stopped,
        failure=_failure(ended.failure, launched),
        started_ns=ended.started_ns,
        exited_ns=ended.exited_ns,
    )


def _failure(failure: str, launched: LaunchRecord | None) -> str:
    """A sentence of ``<step> <errno>``."""
    if not failure:
        return ""
    step, _, number = failure.partition(" ")
    why = os.strerror(int(number)) if number.isdecimal() else failure
    if launched is None:
        return f"the program cannot be started: {why}"
    if step == "chdir":
        return f"the working directory {launched.cwd} cannot be entered: {why}"
    program = launched.argv[0]
    where = "" if program.startswith("/") else f" in {launched.cwd}" if "/" in program else " on the PATH"
    return f"the program {program!r} cannot be started{where}: {why}"
