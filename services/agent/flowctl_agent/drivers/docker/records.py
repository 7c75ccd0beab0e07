"""The directory of one container run on this host: ``<state>/containers/<pipeline>.<component>.<index>/<incarnation>/``.

``container.json`` says what was started (no secrets), ``redact.json`` (0600, until the run ends) what is kept out of its output,
``stopping`` that it was asked to end, ``end.json`` how it ended, ``output-<offset>.log`` what it wrote and ``forgotten`` that the
journal knows how it ended. So an agent knows its runs while the engine is away, and containers can go as soon as they have ended.
"""

import contextlib
import shutil
import uuid
from pathlib import Path
from typing import Final

import msgspec

from flowctl_agent.drivers import Launch, Run, RunKey
from flowctl_agent.drivers.docker.recipe import Ending
from flowctl_agent.drivers.rundir import RunDirectory, read_record, run_directories, write_private

FOLDER: Final = "containers"


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was started."""

    assignment: int
    argv: list[str]
    image: str
    stop_timeout_s: float

    @classmethod
    def of(cls, launch: Launch) -> "ContainerRecord":
        """What a launch starts."""
        return cls(assignment=launch.assignment, argv=launch.argv, image=launch.image, stop_timeout_s=launch.stop_timeout_s)


class EndRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended, with its last words, and the container that it was."""

    ending: Ending
    last_words: list[str]
    handle: str = ""


class ContainerDirectory(RunDirectory):
    """One container run's files."""

    def begin(self, launch: Launch) -> None:
        """Make the directory anew. Raises OSError if it cannot be made."""
        shutil.rmtree(self.path, ignore_errors=True)  # left by another life of the journal, whose numbers began anew
        self.path.mkdir(mode=0o700, parents=True)
        write_private(self.path / "redact.json", msgspec.json.encode(launch.secrets))
        write_private(self.path / "container.json", msgspec.json.encode(ContainerRecord.of(launch)))

    def began(self) -> ContainerRecord | None:
        """What was started."""
        return read_record(self.path / "container.json", ContainerRecord)

    def redacted(self) -> list[str]:
        """What is kept out of the output."""
        return read_record(self.path / "redact.json", list[str]) or []

    def mark_stopping(self) -> None:
        """Whatever ends it now, it was asked to end. Raises OSError."""
        write_private(self.path / "stopping", b"")

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end."""
        return (self.path / "stopping").exists()

    def ended(self) -> EndRecord | None:
        """How it ended."""
        return read_record(self.path / "end.json", EndRecord)

    def mark_ended(self, record: EndRecord) -> None:
        """From now on, this directory alone knows. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.path / "end.tmp", msgspec.json.encode(record))
        (self.path / "end.tmp").rename(self.path / "end.json")
        (self.path / "redact.json").unlink(missing_ok=True)

    def never_began(self, launch: Launch, ending: Ending) -> Run:
        """Note a run that could not even begin, if that can be done at all; the run."""
        record = EndRecord(ending=ending, last_words=[])
        with contextlib.suppress(OSError):
            self.begin(launch)
            self.mark_ended(record)
        return ended_run(run_of(self.key, ContainerRecord.of(launch)), record)


def directories(root: Path) -> list[ContainerDirectory]:
    """Every run that has a directory, in order of incarnations within each instance."""
    return [ContainerDirectory(root, each.key) for each in run_directories(root)]


def run_of(key: RunKey, began: ContainerRecord, handle: str = "") -> Run:
    """A run that lives."""
    return Run(key=key, assignment=began.assignment, state="running", handle=handle, stop_timeout_s=began.stop_timeout_s)


def ended_run(run: Run, record: EndRecord) -> Run:
    """A run that has ended."""
    ending = record.ending
    return msgspec.structs.replace(
        run,
        state="exited",
        handle=record.handle,
        code=ending.code,
        signal=ending.signal,
        failure=ending.failure,
        cause=ending.cause,
        stopped=ending.stopped,
        last_words=record.last_words,
        started_ns=ending.started_ns or run.started_ns,
        exited_ns=ending.exited_ns,
    )


def owner_of(root: Path) -> str:
    """A name for whatever the agent of this state directory makes in an engine. Raises OSError."""
    path = root / "owner"
    with contextlib.suppress(OSError):
        text = path.read_text().strip()
        if text:
            return text
    owner = uuid.uuid4().hex[:12]
    write_private(path, f"{owner}\n".encode())
    return owner
