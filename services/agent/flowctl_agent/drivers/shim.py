"""The small program between the agent and a component: outlives the agent, never the component.

Run as ``python -I -S shim.py <run directory>`` with the launch on stdin (``<cwd> <stop timeout> <log file bytes> <log files>
<argc> <argv…> <env…>``, each ended by NUL), a pipe to the agent as stdout, and the run directory's lock as descriptor 3: while
that is held, the run lives. One shim runs beside every component, so it imports next to nothing and wakes only when something
happens.

It starts the component in a process group of its own, tied to the shim's life by PR_SET_PDEATHSIG; writes its output to rotated
files; forwards SIGTERM, with SIGKILL after the stop timeout (SIGUSR1: at once); and when the component has ended, kills what is
left of its descendants, records how it ended in ``exit.json`` and ends. It must never import anything of flowctl.
"""

# Lean on purpose: contextlib, pathlib and signal would double its memory and its start.
# ruff: noqa: SIM105, PTH108, PTH123, PTH104, PTH120, S606

import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

MAX_LINE_BYTES = 32_768
READ_BYTES = 262_144
PARTIAL_LINE_S = 0.5
REAP_S = 5.0

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Launch:
    """What the agent wrote to stdin."""

    def __init__(self, data: bytes) -> None:
        fields = data.split(b"\0")
        self.cwd = fields[0]
        self.stop_timeout_s = float(fields[1])
        self.log_file_bytes = int(fields[2])
        self.log_files = int(fields[3])
        argc = int(fields[4])
        self.argv = fields[5 : 5 + argc]
        pairs = [field.partition(b"=") for field in fields[5 + argc :] if field]
        self.env = {name: value for name, _, value in pairs}


class Output:
    """The component's output on disk: ``output-<offset>.log``, the offset counting the bytes written before that file."""

    def __init__(self, directory: str, file_bytes: int, files: int) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._files = files
        self._segments: list[str] = []
        self._fd = -1
        self._size = 0
        self._offset = 0
        self._torn = False
        self._lost = 0

    def write(self, data: bytes) -> None:
        """Append whole lines. A full disk loses lines, and says how many bytes once there is room; it never stops a component."""
        if self._lost:
            data = _prefix(b"stderr") + b"[flowctl] %d bytes of output were lost: the disk was full\n" % self._lost + data
        if self._torn:
            data = b"\n" + data
        view = memoryview(data)
        try:
            if self._fd < 0 or (self._size and self._size + len(data) > self._file_bytes):
                self._rotate()
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            self._lost += len(view)
            self._torn = len(view) < len(data)
        else:
            self._lost, self._torn = 0, False

    def _rotate(self) -> None:
        offset = self._offset + self._size
        name = f"{self._directory}/output-{offset:020d}.log"
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._offset, self._size = fd, offset, 0
        self._segments.append(name)
        while len(self._segments) > self._files:
            os.unlink(self._segments.pop(0))

    def sync(self) -> None:
        """Let the last words survive a power failure."""
        if self._fd >= 0:
            try:
                os.fsync(self._fd)
            except OSError:
                pass


class Stream:
    """One of the component's output pipes, cut into lines."""

    def __init__(self, fd: int, name: bytes, output: Output) -> None:
        self.fd = fd
        self._name = name
        self._output = output
        self.partial = b""
        self.partial_until = 0.0

    def read(self) -> bool:
        """Take what is there; False once nothing more will come."""
        try:
            chunk = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not chunk:
            return False
        head, end, self.partial = (self.partial + chunk).rpartition(b"\n")
        lines = head.split(b"\n") if end else []
        if len(self.partial) > MAX_LINE_BYTES:
            *pieces, self.partial = _cut(self.partial)
            lines += pieces
        if self.partial:
            self.partial_until = time.monotonic() + PARTIAL_LINE_S
        self._emit(lines)
        return True

    def drain(self) -> None:
        """Take everything that is in the pipe now; every writer is dead."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while poll.poll(0) and self.read():
            pass
        self.flush()

    def flush(self) -> None:
        """Write a line that has not been ended yet."""
        if self.partial:
            partial, self.partial = self.partial, b""
            self._emit([partial])

    def _emit(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if max(map(len, lines)) > MAX_LINE_BYTES:
            lines = [piece for line in lines for piece in _cut(line)]
        prefix = _prefix(self._name)
        text = prefix + (b"\n" + prefix).join(lines) + b"\n"
        if b"\r\n" in text:
            text = text.replace(b"\r\n", b"\n")
        try:
            text.decode()
        except UnicodeDecodeError:
            text = text.decode("utf-8", "replace").encode()
        self._output.write(text)


def _cut(line: bytes) -> list[bytes]:
    """Pieces of at most the longest line, cut between characters."""
    pieces: list[bytes] = []
    while len(line) > MAX_LINE_BYTES:
        at = MAX_LINE_BYTES
        while at > MAX_LINE_BYTES - 4 and line[at] & 0xC0 == 0x80:
            at -= 1
        pieces.append(line[:at])
        line = line[at:]
    return [*pieces, line]


def _prefix(name: bytes) -> bytes:
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z ".encode() + name + b" "


class Shim:
    """One run from start to end."""

    def __init__(self, directory: str, launch: Launch) -> None:
        self._directory = directory
        self._launch = launch
        self._output = Output(directory, launch.log_file_bytes, launch.log_files)
        self._streams: list[Stream] = []
        self._child = -1
        self._started_ns = 0
        self._stopped = False
        self._killed = False
        self._kill_at: float | None = None
        self._wake_fd = _watch_signals()

    def run(self) -> None:
        """Start, watch, clean up, record."""
        prctl = _prctl()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        failure = self._start(prctl)
        if failure:
            self._record_exit(127, None, failure)
            _tell_agent(b"failed\n")
            return
        record = '{"shim":%d,"shim_start":%d,"pid":%d,"pid_start":%d,"boot":"%s","started_ns":%d}'
        facts = (os.getpid(), start_ticks(os.getpid()), self._child, start_ticks(self._child), boot_id(), self._started_ns)
        _write(f"{self._directory}/running.json", record % facts, durable=False)
        _tell_agent(b"started\n")
        self._watch()
        status = self._kill_descendants()
        for stream in self._streams:
            stream.drain()
        self._output.sync()
        code = os.waitstatus_to_exitcode(status) if status is not None else None
        if code is None or code >= 0:
            self._record_exit(code, None, "")
        else:
            self._record_exit(None, -code, "")

    def _start(self, prctl: "Prctl") -> str:
        """Fork and execute; the step that failed with its errno, or nothing."""
        report_r, report_w = os.pipe()
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        parent = os.getpid()
        self._started_ns = time.time_ns()
        try:
            self._child = os.fork()
        except OSError as error:
            return f"fork {error.errno}"
        if self._child == 0:
            _become_component(self._launch, prctl, parent=parent, out_fd=out_w, err_fd=err_w, report_fd=report_w)
        try:
            os.setpgid(self._child, self._child)  # also in the child: whoever comes first
        except OSError:
            pass
        for fd in (report_w, out_w, err_w):
            os.close(fd)
        failure = os.read(report_r, 100).decode()
        os.close(report_r)
        for fd, name in ((out_r, b"stdout"), (err_r, b"stderr")):
            os.set_blocking(fd, False)
            self._streams.append(Stream(fd, name, self._output))
        return failure

    def _watch(self) -> None:
        """Until the component has ended; it stays a zombie, so that its ids cannot be anybody else's."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        streams = {stream.fd: stream for stream in self._streams}
        for fd in streams:
            poll.register(fd, select.POLLIN)
        while True:
            ready = poll.poll(self._timeout_ms())
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill()
            for fd, _ in ready:
                if fd in streams and not streams[fd].read():
                    poll.unregister(fd)
                    del streams[fd]
            for stream in self._streams:
                if stream.partial and time.monotonic() >= stream.partial_until:
                    stream.flush()
            if any(fd == self._wake_fd for fd, _ in ready) and self._signalled():
                return

    def _timeout_ms(self) -> int | None:
        deadlines = [stream.partial_until for stream in self._streams if stream.partial]
        if self._kill_at is not None:
            deadlines.append(self._kill_at)
        return max(0, int((min(deadlines) - time.monotonic()) * 1000) + 1) if deadlines else None

    def _signalled(self) -> bool:
        """Obey the signals that arrived; True once the component has ended."""
        numbers = os.read(self._wake_fd, 4096)
        if _signal.SIGTERM in numbers and not self._stopped:
            self._stopped = True
            self._kill_at = time.monotonic() + self._launch.stop_timeout_s
            _kill_group(self._child, _signal.SIGTERM)
            _kill_group(self._child, _signal.SIGCONT)  # a stopped process could not obey
        if _signal.SIGUSR1 in numbers:
            self._stopped = True
            self._kill()
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return True
            if ended is None:
                return False
            if ended.si_pid == self._child:
                return True
            os.waitpid(ended.si_pid, os.WNOHANG)  # a grandchild that was left to the subreaper

    def _kill(self) -> None:
        self._killed = True
        self._kill_at = None
        _kill_group(self._child, _signal.SIGKILL)

    def _kill_descendants(self) -> int | None:
        """Kill the group and every process that became the shim's child; the component's wait status."""
        _kill_group(self._child, _signal.SIGKILL)
        status: int | None = None
        deadline = time.monotonic() + REAP_S
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        while time.monotonic() < deadline:
            for pid in _children():
                try:
                    os.kill(pid, _signal.SIGKILL)
                except OSError:
                    pass
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == self._child:
                status = ended
            elif pid == 0 and poll.poll(50):
                os.read(self._wake_fd, 4096)
        return status

    def _record_exit(self, code: int | None, number: int | None, failure: str) -> None:
        fields = (
            ("code", "null" if code is None else str(code)),
            ("signal", "null" if number is None else str(number)),
            ("failure", f'"{failure}"'),
            ("stopped", str(self._stopped).lower()),
            ("killed", str(self._killed).lower()),
            ("started_ns", str(self._started_ns)),
            ("exited_ns", str(time.time_ns())),
        )
        record = "{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}"
        _write(f"{self._directory}/exit.json", record, durable=True)


def _become_component(launch: Launch, prctl: "Prctl", *, parent: int, out_fd: int, err_fd: int, report_fd: int) -> None:
    """In the forked child: never returns."""
    step = "fork"
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)
        _signal.set_wakeup_fd(-1)
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGHUP, _signal.SIGINT):
            _signal.signal(number, _signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out_fd, 1)
        os.dup2(err_fd, 2)
        step = "chdir"
        os.chdir(launch.cwd)
        step = "exec"
        _execute(launch.argv, launch.env)
    except OSError as error:
        os.write(report_fd, f"{step} {error.errno}".encode())
    finally:
        os._exit(127)


def _execute(argv: list[bytes], env: dict[bytes, bytes]) -> None:
    program = argv[0]
    if b"/" in program:
        os.execve(program, argv, env)
    denied: OSError | None = None
    missing: OSError = FileNotFoundError(2, "")
    for folder in env.get(b"PATH", os.defpath.encode()).split(b":"):
        try:
            os.execve((folder or b".") + b"/" + program, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            denied = denied or error
    raise denied or missing


class Prctl:
    """``prctl(2)`` without importing ctypes, whose Python half costs more than all the rest of this program."""

    def __init__(self) -> None:
        import _ctypes

        self._call = _ctypes.call_function
        self._address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # None: this program itself

    def __call__(self, option: int, value: int) -> None:
        """Set a process attribute."""
        self._call(self._address, (option, int(value), 0, 0, 0))


class NoPrctl(Prctl):
    """Where there is no prctl: the component is killed by the agent instead when the shim is gone."""

    def __init__(self) -> None:
        pass

    def __call__(self, option: int, value: int) -> None:
        """Do nothing."""


def _prctl() -> Prctl:
    try:
        return Prctl()
    except (ImportError, OSError, AttributeError):
        return NoPrctl()


def _watch_signals() -> int:
    """A descriptor from which the numbers of arriving signals are read."""
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    _signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    for number in (_signal.SIGTERM, _signal.SIGUSR1, _signal.SIGCHLD):
        _signal.signal(number, _heard)
    for number in (_signal.SIGHUP, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_IGN)
    return wake_r


def _heard(number: int, frame: object) -> None:
    """Nothing: the wake-up descriptor tells."""


def _kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:
        pass


def _children() -> list[int]:
    """The pids of this process's children, dead ones included."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def start_ticks(pid: int) -> int:
    """When the process was started, in clock ticks since boot; 0 if that cannot be known. Tells apart two with one pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def boot_id() -> str:
    """What names this run of the kernel, empty if that cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str, *, durable: bool) -> None:
    """Write a file that is there entirely or not at all."""
    temporary = path + ".tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, text.encode())
        if durable:
            os.fsync(fd)
        os.close(fd)
        os.rename(temporary, path)
        if durable:
            directory = os.open(os.path.dirname(path), os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
    except OSError as error:
        os.write(2, f"{path}: {error}\n".encode())


def _tell_agent(word: bytes) -> None:
    """Answer the agent, which may have gone, and let go of the pipe."""
    try:
        os.write(1, word)
    except OSError:
        pass
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)


def _read_all(fd: int) -> bytes:
    chunks: list[bytes] = []
    while chunk := os.read(fd, READ_BYTES):
        chunks.append(chunk)
    return b"".join(chunks)


def main() -> None:
    """The program."""
    os.set_inheritable(3, False)  # noqa: FBT003  # the lock: it must end with the shim
    shim = Shim(sys.argv[1], Launch(_read_all(0)))
    os.chdir("/")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    shim.run()


if __name__ == "__main__":
    main()
