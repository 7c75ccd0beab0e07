"""What starts and stops instances: one ``Driver`` for each way to run a program.

A driver knows runs, not wishes: it starts what it is told to, says what runs and what has ended, and never decides. Every driver
passes the same conformance suite. Only ``drivers/<name>.py`` may import the library of what it drives, and imports it lazily.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.spec.model import Container, Resources
from flowctl.spec.model import Driver as DriverName


class RunKey(msgspec.Struct, frozen=True, order=True):
    """One incarnation of an instance, as a driver runs it."""

    instance: InstanceId
    incarnation: int

    def __str__(self) -> str:
        return f"{self.instance}/{self.incarnation}"


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a driver must know to start a run. ``env`` and ``config`` may hold secrets; ``argv`` never does.

    The driver puts ``config`` (JSON) where only the program can read it, and adds FLOWCTL_CONFIG_FILE and FLOWCTL_STATE_DIR to
    ``env``. ``secrets`` are texts without line breaks, the longest first, that the driver keeps out of the output that it hands
    on. ``cwd`` None: the instance's state directory.

    The rest is for containers: ``image``; whether ``argv`` replaces the image's own program (``has_program``) or only follows it;
    ``secret_env``, the variables that hold secrets and are not in ``env``; how it is made (``container``) and limited.
    """

    key: RunKey
    assignment: int
    argv: list[str]
    env: dict[str, str]
    config: bytes
    secrets: tuple[str, ...] = ()
    cwd: Path | None = None
    stop_timeout_s: float = 30.0
    driver: DriverName = "process"
    image: str = ""
    has_program: bool = True
    secret_env: dict[str, str] = field(default_factory=dict[str, str])
    container: Container = Container()
    resources: Resources | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run as its driver knows it.

    Of an exited one: ``code`` is the exit code, ``signal`` the number of the signal that ended it, both None if nobody saw how it
    ended; ``stopped`` says that the driver was asked to end it; ``failure`` is the sentence that says why the program could not
    be started at all; ``cause`` what is known of why it ended besides (no memory was left); ``last_words`` the last lines that it
    wrote to stderr. Times are Unix nanoseconds by this host.
    """

    key: RunKey
    assignment: int
    state: Literal["running", "exited"]
    handle: str = ""
    code: int | None = None
    signal: int | None = None
    stopped: bool = False
    failure: str = ""
    cause: str = ""
    last_words: list[str] = field(default_factory=list[str])
    started_ns: int = 0
    exited_ns: int = 0
    stop_timeout_s: float = 30.0

    @property
    def live(self) -> bool:
        """Whether it runs."""
        return self.state == "running"


class OutputLine(msgspec.Struct, frozen=True):
    """One line of a run's output. ``position`` names it within the run; ``stream`` is ``stdout`` or ``stderr``."""

    position: int
    stream: str
    text: str
    time_ns: int


class OutputChunk(msgspec.Struct, frozen=True):
    """Some lines of a run's output, the position after them, and how many bytes before them were rotated away unread."""

    lines: list[OutputLine]
    position: int
    lost_bytes: int = 0


class Driver(Protocol):
    """Starts, stops and finds runs on this host."""

    name: DriverName

    async def open(self) -> None:
        """Find the runs that an earlier agent on this host has left, live or exited.

        Raises:
            DriverError: what is driven is not there.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; what runs goes on running."""
        ...

    async def start(self, launch: Launch) -> Run:
        """Start a run, and return it as running, or as exited with ``failure`` if its program cannot be started.

        Raises:
            DriverError: the driver itself failed, or the instance has a live run already.
        """
        ...

    async def stop(self, key: RunKey, timeout_s: float) -> None:
        """Ask the run to end, end it by force after ``timeout_s`` seconds, and return once nothing of it lives.

        A run that has ended or is not known is left as it is. Raises:
            DriverError: it could not be ended.
        """
        ...

    async def list(self, instance: InstanceId | None = None) -> list[Run]:
        """All runs (of one instance) that were not forgotten, in order of their keys."""
        ...

    async def forget(self, key: RunKey) -> None:
        """List an exited run no more. Its output stays readable for a while."""
        ...

    async def tidy(self, pipelines: Collection[str]) -> None:
        """Remove what the runs of a pipeline shared on this host, except for ``pipelines`` and for those of which a run lives."""
        ...

    def absence(self) -> str | None:
        """Why nothing can be started or stopped now, in a sentence; None if it can. Until then the last known is listed."""
        ...

    def on_exit(self, listener: Callable[[Run], None]) -> None:
        """Call ``listener`` with every run that ends from now on, at once."""
        ...

    def on_output(self, listener: Callable[[RunKey], None]) -> None:
        """Call ``listener`` when a run has written something."""
        ...

    def outputs(self) -> "list[RunKey]":
        """Every run whose output is still there, forgotten ones included."""
        ...

    def read_output(self, key: RunKey, position: int, limit_bytes: int) -> OutputChunk:
        """The lines from ``position`` on, at most about ``limit_bytes`` of them. Position 0 is the beginning."""
        ...

    def directory(self, key: RunKey) -> Path:
        """Where this host keeps small things about the run, for as long as its output."""
        ...
