"""One run from start to end: start the component, watch it, obey signals, clean up, record."""

# Lean on purpose: contextlib, pathlib and signal would double the shim's memory and its start.
# ruff: noqa: SIM105, PTH104, PTH120

import os
import select
import sys
import time

from flowctl_agent.shim.component import Launch, become_component
from flowctl_agent.shim.kernel import Prctl, boot_id, children, close_others, find_prctl, start_ticks
from flowctl_agent.shim.output import READ_BYTES, Output, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

REAP_S = 5.0
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """The program."""
    os.set_inheritable(3, False)  # noqa: FBT003  # the lock: it must end with the shim
    close_others(4)  # what the agent's own starter left open is no business of the component
    shim = Shim(sys.argv[1], Launch(_read_all(0)))
    os.chdir("/")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    shim.run()


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
        prctl = find_prctl()
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

    def _start(self, prctl: Prctl) -> str:
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
            become_component(self._launch, prctl, parent=parent, out_fd=out_w, err_fd=err_w, report_fd=report_w)
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
            self._streams.append(Stream(fd, name, self._output, self._launch.secrets))
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
            for pid in children():
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
