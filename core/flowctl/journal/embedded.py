"""A nats-server of our own: the child process that holds the journal when no external NATS is named.

One server per directory, loopback only, with a credential that only the directory's owner can read, and fsync before every
acknowledgement. It dies with the process that started it; whoever finds it alive adopts it. May start and signal processes;
must never import nats: a client is somebody else's business.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

import msgspec

from flowctl.errors import JournalUnavailableError
from flowctl.journal import monitoring, server_process

_log = logging.getLogger(__name__)

LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024
LOG_FILES: Final = 3
FILE_STORE_BYTES: Final = 1 << 40
MEMORY_STORE_BYTES: Final = 64 * 1024 * 1024
# An event of the data plane (4 MiB) fits, with what a dead letter says of it.
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
STOP_TIMEOUT_S: Final = 5.0
STEADY_AFTER_S: Final = 10.0
LOOK_S: Final = 2.0
ROOM_BYTES: Final = 8 * 1024 * 1024
"""With less room than this a server that has met a full disk is not started anew: it would only meet it again."""
MAX_BACKOFF_S: Final = 5.0

CONFIG_FILE: Final = "nats.conf"
STATE_FILE: Final = "nats.json"

_USER: Final = "flowctl"


class _State(msgspec.Struct):
    """What is remembered beside the store, in a file that only its owner may read. ``pid`` 0: none was started yet."""

    password: str
    server_name: str
    pid: int = 0
    port: int = 0
    monitor_port: int = 0


class Address(msgspec.Struct, frozen=True):
    """Where a running embedded server is: for clients (credential included), and its HTTP monitoring."""

    url: str
    monitor_url: str
    pid: int


def discover(directory: Path) -> Address | None:
    """The live server of a directory, or None. Looks at files and processes only; whether it answers is for a client to see."""
    directory = directory.absolute()
    try:
        state = msgspec.json.decode((directory / STATE_FILE).read_bytes(), type=_State)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not state.pid or not state.port or not server_process.runs(state.pid, directory / CONFIG_FILE):
        return None
    return _address(state)


def _address(state: _State) -> Address:
    return Address(f"nats://{_USER}:{state.password}@127.0.0.1:{state.port}", f"http://127.0.0.1:{state.monitor_port}", state.pid)


class EmbeddedNats:
    """The nats-server of one directory, started or adopted, and started again (on the same port) when it dies.

    One that has met a full disk takes nothing any more, also when there is room: then it is ended, and started again.
    ``detached`` lets the server outlive this process. ``on_change`` is called with one sentence whenever the server died, was
    started again or could not be. Times are seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        detached: bool = False,
        start_timeout_s: float = 10.0,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.adopted = False
        self.restarts = 0
        self._detached = detached
        self._start_timeout_s = start_timeout_s
        self._on_change = on_change
        self._state: _State | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, credential included. Only after ``start``."""
        return _address(self._running()).url

    @property
    def monitor_url(self) -> str:
        """The server's HTTP monitoring, loopback only. Only after ``start``."""
        return _address(self._running()).monitor_url

    @property
    def pid(self) -> int:
        """The server's process id; another one after a restart. Only after ``start``."""
        return self._running().pid

    @property
    def log_path(self) -> Path:
        """Where the server writes what it has to say."""
        return self.directory / "nats.log"

    async def start(self) -> None:
        """Adopt the directory's live server, or start one; when this returns a client can connect.

        Raises:
            JournalUnavailableError: there is no nats-server program, or it does not come up in time.
        """
        if self._watch is not None:
            return
        await self._ensure()
        self._watch = asyncio.create_task(self._keep(), name="embedded-nats")
        self._looking = asyncio.create_task(self._look(), name="embedded-nats-disk")

    async def stop(self, *, adopted: bool = False) -> None:
        """End the server if this object started it (with ``adopted`` in any case): SIGTERM, a bounded wait, then SIGKILL."""
        await self.release()
        if self._state is None or (self.adopted and not adopted):
            return
        async with self._locked():
            if server_process.runs(self._state.pid, self._config_path):
                await server_process.end(self._state.pid, timeout_s=STOP_TIMEOUT_S, child=self._child)
        self._child = None

    async def release(self) -> None:
        """Stop watching, and leave the server alone. A server that was not detached still dies with its starter."""
        for task in (self._looking, self._watch):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._looking = self._watch = None

    def _running(self) -> _State:
        if self._state is None:
            raise JournalUnavailableError("the embedded nats-server has not been started")
        return self._state

    # --- keeping it alive --------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Start the server again whenever it ends, waiting longer each time that it does not last."""
        backoff_s = 0.0
        while True:
            state, since = self._running(), time.monotonic()
            await server_process.ended(state.pid, child=self._child)
            self._say(f"nats-server (pid {state.pid}) is gone; starting it again, its log is {self.log_path}")
            backoff_s = 0.0 if time.monotonic() - since > STEADY_AFTER_S else min(MAX_BACKOFF_S, backoff_s * 2 + 0.05)
            while True:
                await asyncio.sleep(backoff_s)
                try:
                    await self._ensure(ports_may_change=False)
                except (JournalUnavailableError, OSError) as error:
                    backoff_s = min(MAX_BACKOFF_S, backoff_s * 2 + 0.05)
                    self._say(f"nats-server cannot be started: {error}; next attempt in {backoff_s:.1f} s")
                else:
                    break
            self.restarts += 1
            self._say(f"nats-server runs again (pid {self._running().pid})")

    async def _look(self) -> None:
        """End a server that has given up on its disk, once there is room on it; ``_keep`` starts it again."""
        said = False
        while True:
            await asyncio.sleep(LOOK_S)
            state = self._running()
            try:
                wrong = await monitoring.complaint(_address(state).monitor_url)
            except (OSError, TimeoutError, ValueError):
                continue  # it is on its way, or gone
            if wrong is None or not monitoring.keeps_nothing(wrong):
                said = False
                continue
            if not said:
                self._say(f"nats-server keeps nothing any more until there is room in {self.directory}: {wrong}")
                said = True
            if shutil.disk_usage(self.directory).free >= ROOM_BYTES:
                self._say(f"there is room in {self.directory}: nats-server is started anew")
                async with self._locked():
                    if server_process.runs(state.pid, self._config_path):
                        await server_process.end(state.pid, timeout_s=STOP_TIMEOUT_S, child=self._child)

    def _say(self, sentence: str) -> None:
        _log.warning(sentence)
        if self._on_change is not None:
            self._on_change(sentence)

    # --- starting ----------------------------------------------------------------------------------------------------------

    async def _ensure(self, *, ports_may_change: bool = True) -> None:
        """Have a server run. Clients hold on to the ports that they know: a restart under them keeps those."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with self._locked():
            state = self._state = self._load()
            if await self._adopt(state):
                return
            program = server_process.find_program()
            launched = await self._launch(program, state)
            if not launched and ports_may_change:
                launched = await self._launch(program, self._forget_ports(state))
            if not launched:
                raise JournalUnavailableError(
                    f"nats-server did not come up: {self._last_words()}", hint=f"its log is {self.log_path}"
                )

    async def _adopt(self, state: _State) -> bool:
        """Whether the server of the state file lives and is ours. One that lives without answering is ended."""
        if not state.pid or not server_process.runs(state.pid, self._config_path):
            return False
        if await self._answers(state):
            self.adopted = self._child is None or self._child.pid != state.pid
            return True
        # It is shutting down (its starter was killed), or it hangs: two servers must never share a store.
        await server_process.end(state.pid, timeout_s=STOP_TIMEOUT_S, child=self._child)
        return False

    async def _launch(self, program: Path, state: _State) -> bool:
        state.port = state.port or server_process.fixed_port()
        state.monitor_port = state.monitor_port or server_process.fixed_port()
        for stale in self.directory.glob("nats-server_*.ports"):
            # Its starter may have been killed before it could write down the pid.
            pid = stale.stem.rpartition("_")[2]
            if pid.isdigit() and server_process.runs(int(pid), self._config_path):
                await server_process.end(int(pid), timeout_s=STOP_TIMEOUT_S)
            stale.unlink(missing_ok=True)
        _write_private(self._config_path, self._config(state))
        with (self.directory / "nats.stderr").open("wb") as stderr:
            child = server_process.spawn([str(program), "-c", str(self._config_path)], stderr=stderr, detached=self._detached)
        self._child = child
        state.pid = child.pid
        _write_private(self._state_path, msgspec.json.encode(state))
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if child.poll() is not None:
                return False
            if self._read_ports(state) and await self._answers(state):
                _write_private(self._state_path, msgspec.json.encode(state))
                self.adopted = False
                return True
            await asyncio.sleep(0.002)
        await server_process.end(child.pid, timeout_s=STOP_TIMEOUT_S, child=child)
        return False

    def _forget_ports(self, state: _State) -> _State:
        """Somebody else may have taken the port meanwhile: any free one, then."""
        state.port = state.monitor_port = 0
        return state

    def _read_ports(self, state: _State) -> bool:
        path = self.directory / f"nats-server_{state.pid}.ports"
        try:
            ports = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
            state.port = int(ports["nats"][0].rpartition(":")[2])
            state.monitor_port = int(ports["monitoring"][0].rpartition(":")[2])
        except (OSError, msgspec.DecodeError, KeyError, IndexError, ValueError):
            return False
        return True

    async def _answers(self, state: _State) -> bool:
        return await server_process.answers(
            state.port, server_name=state.server_name, user=_USER, password=state.password, timeout_s=1.0
        )

    def _last_words(self) -> str:
        for name in ("nats.stderr", "nats.log"):
            with contextlib.suppress(OSError):
                lines = (self.directory / name).read_text(errors="replace").splitlines()
                if told := [line for line in lines if "[FTL]" in line or "[ERR]" in line or name == "nats.stderr"]:
                    return re.sub(r"^\[\d+\] \S+ \S+ \[[A-Z]{3}\] ", "", told[-1].strip())
        return "it says nothing"

    # --- files -------------------------------------------------------------------------------------------------------------

    @property
    def _config_path(self) -> Path:
        return self.directory / CONFIG_FILE

    @property
    def _state_path(self) -> Path:
        return self.directory / STATE_FILE

    def _load(self) -> _State:
        try:
            return msgspec.json.decode(self._state_path.read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            # The name proves that who answers on the port is this directory's server.
            return _State(password=secrets.token_urlsafe(24), server_name=f"flowctl-{secrets.token_hex(6)}")

    def _config(self, state: _State) -> bytes:
        """The server's configuration; it reads JSON as well as its own format."""
        config = {
            "server_name": state.server_name,
            "host": "127.0.0.1",
            "port": state.port or -1,
            "http": f"127.0.0.1:{state.monitor_port or -1}",
            "ports_file_dir": str(self.directory),
            "log_file": str(self.log_path),
            "logfile_size_limit": LOG_LIMIT_BYTES,
            "logfile_max_num": LOG_FILES,
            "max_payload": MAX_PAYLOAD_BYTES,
            "authorization": {"user": _USER, "password": state.password},
            "jetstream": {
                "store_dir": str(self.directory),
                "sync_interval": "always",
                "max_file_store": FILE_STORE_BYTES,
                "max_memory_store": MEMORY_STORE_BYTES,
            },
        }
        return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        """One starter at a time per directory, across processes."""
        fd = os.open(self.directory / "nats.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + 2 * self._start_timeout_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise JournalUnavailableError(f"somebody else is starting the nats-server of {self.directory}") from None
                    await asyncio.sleep(0.005)
            yield
        finally:
            os.close(fd)


def _write_private(path: Path, data: bytes) -> None:
    """Replace a file, at once and for its owner's eyes only."""
    temporary = path.with_suffix(path.suffix + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    temporary.replace(path)
