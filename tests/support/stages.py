"""What the conformance suite runs on: a driver of each kind, launches for it, and what it has left behind."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from flowctl.spec.model import Container
from flowctl_agent.drivers import Driver, Launch, RunKey
from flowctl_agent.drivers.docker import DockerDriver
from support import agents, engine, images


class Stage(Protocol):
    """One kind of driver. ``awkward`` is a directory with a file ``plain`` that is no program, and an empty program ``empty``.

    ``lacks`` says which cases of the suite make no sense for it, and why.
    """

    awkward: str
    lacks: ClassVar[Mapping[str, str]]

    def driver(self) -> Driver:
        """The driver of one host, not open yet."""
        ...

    def launch(self, argv: Sequence[str], run: RunKey | None = None, **more: Any) -> Launch:
        """A launch of a program."""
        ...

    def leftovers(self) -> list[str]:
        """What is still there of the driver's."""
        ...


class ProcessStage:
    """The process driver."""

    lacks: ClassVar[Mapping[str, str]] = {
        "image": "a process has no image",
        "limits": "it cannot enforce limits, and a file that asks for them is refused (tests/spec)",
        "engine": "the kernel is its engine, and does not go away",
    }

    def __init__(self, state_dir: Path, tmp_path: Path) -> None:
        self._state_dir = state_dir
        self.awkward = str(tmp_path)
        (tmp_path / "plain").write_text("echo hello\n")
        (tmp_path / "empty").touch(mode=0o755)

    def driver(self) -> Driver:
        """See ``Stage``."""
        return agents.process_driver(self._state_dir)

    def launch(self, argv: Sequence[str], run: RunKey | None = None, **more: Any) -> Launch:
        """See ``Stage``."""
        return agents.launch(argv, run, **more)

    def leftovers(self) -> list[str]:
        """See ``Stage``."""
        return [str(process.pid) for process in agents.processes_of(self._state_dir)]


class DockerStage:
    """The docker driver, on a real engine."""

    awkward = "/awkward"
    lacks: ClassVar[Mapping[str, str]] = {
        "cwd": "a program begins in its image's working directory, not in one of the host's",
        "exec format": "the init of its containers gives what is no program to the image's shell, as shells do",
    }

    def __init__(self, url: str, state_dir: Path) -> None:
        self.url = url
        self._state_dir = state_dir

    def driver(self) -> DockerDriver:
        """See ``Stage``."""
        return DockerDriver(
            self._state_dir,
            url=self.url,
            registry="127.0.0.1:8080",
            advertise_host="127.0.0.1",
            log_file_bytes=1_000_000,
            log_files=3,
            kept_runs=2,
        )

    def launch(self, argv: Sequence[str], run: RunKey | None = None, **more: Any) -> Launch:
        """See ``Stage``."""
        container = Container(pull="never", **more.pop("container", {}))
        image = more.pop("image", images.PYTHON_IMAGE)
        return agents.launch(argv, run, driver="docker", image=image, container=container, **more)

    @property
    def owner(self) -> str:
        """The name of whatever the driver makes in the engine."""
        return (self._state_dir / "containers" / "owner").read_text().strip()

    def leftovers(self) -> list[str]:
        """See ``Stage``: containers, networks and volumes."""
        filters = {"label": f"flowctl.owner={self.owner}"}
        with contextlib.closing(engine.client(self.url)) as api:
            found: list[Any] = [*api.containers(all=True, filters=filters), *api.networks(filters=filters)]
            found += api.volumes(filters=filters)["Volumes"] or []
            return [str(each.get("Names") or each.get("Name")) for each in found]
