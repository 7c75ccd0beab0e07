"""A real Docker engine for the tests, and an image made of this machine's own parts.

``TEST_DOCKER_HOST`` names an engine that runs already; ``TEST_DOCKER=required`` makes its absence a failure. Without either, an
engine is started here if this machine can run one. ``python -m support.engine CMD…`` runs a command with an engine.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors

ROOT = Path(__file__).parent.parent.parent
HOME = "/opt/python"
START_S = 60.0
_PACKAGES = ("core/flowctl", "sdk/flowctl_sdk", "components/flowctl_components", "tests/support/programs")


def _content() -> str:
    """A name for what the image is made of, so that an old one is not taken for it."""
    digest = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes() + (ROOT / "constraints.txt").read_bytes())
    for folder in _PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


PYTHON_IMAGE = f"flowctl-test/python:{_content()}"
_LEFT_OUT = re.compile(r"(^|/)(test|tests|idlelib|ensurepip|lib2to3|turtledemo|tkinter|__pycache__|config-3[^/]*)(/|$)")


class Engine:
    """A dockerd of our own, on a directory of its own; with ``iptables`` only if it is the only one on this machine."""

    def __init__(self, *, iptables: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="flowctl-engine-", dir="/var/tmp"))  # not a tmpfs: overlayfs needs a disk
        self.url = f"unix://{self.directory}/docker.sock"
        self._iptables = iptables
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for leftover in ("docker.pid", "docker.sock"):
            (self.directory / leftover).unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--data-root", f"{self.directory}/data", "--exec-root", f"{self.directory}/exec"),
                    *("-H", self.url, "--pidfile", f"{self.directory}/docker.pid", "--bridge", "none"),
                    *(() if self._iptables else ("--iptables=false", "--ip6tables=false")),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not answers(self.url):
            assert self._process.poll() is None, f"dockerd has ended: {self.tail()}"
            assert time.monotonic() < deadline, f"dockerd does not answer: {self.tail()}"
            time.sleep(0.05)

    def tail(self) -> str:
        """The last that it said."""
        return (self.directory / "log").read_text(errors="replace")[-1500:]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it. SIGKILL leaves containers running for the next start to find."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """End it and everything that it made."""
        if self._process is not None:
            with contextlib.suppress(Exception), contextlib.closing(client(self.url)) as api:
                for container in api.containers(all=True):
                    api.remove_container(container["Id"], force=True)
                for network in api.networks():
                    if network["Driver"] == "bridge":
                        api.remove_network(network["Id"])
        self.stop()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            mounted = line.split()[1]
            if mounted.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", mounted], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def client(url: str) -> Any:
    """The library's own client, for looking past flowctl."""
    return docker.APIClient(base_url=url, version="auto", timeout=60)


def answers(url: str) -> bool:
    """Whether an engine answers there."""
    with socket.socket(socket.AF_UNIX) as knocking:  # the library would leave its socket behind if nobody listens
        if url.startswith("unix://") and knocking.connect_ex(url.removeprefix("unix://")) != 0:
            return False
    try:
        with contextlib.closing(client(url)) as api:
            return bool(api.ping())
    except docker.errors.DockerException:
        return False


def why_none() -> str | None:
    """Why this machine runs no engine for the tests; None if it can."""
    url = os.environ.get("TEST_DOCKER_HOST")
    if url:
        return None if answers(url) else f"no engine answers at {url}"
    return why_own_none()


def why_own_none() -> str | None:
    """Why no engine can be started here; None if one can."""
    if shutil.which("dockerd") is None:
        return "there is no dockerd on this machine"
    if os.geteuid() != 0:
        return "dockerd needs root, and TEST_DOCKER_HOST names no engine that runs already"
    return None


@contextlib.contextmanager
def running() -> Generator[str]:
    """The URL of an engine with the image of this machine's Python."""
    given = os.environ.get("TEST_DOCKER_HOST")
    if given:
        build_python(given)
        yield given
        return
    engine = Engine(iptables=shutil.which("iptables") is not None and not _other_engines())
    try:
        engine.start()
        build_python(engine.url)
        yield engine.url
    finally:
        engine.close()


def _other_engines() -> bool:
    return any(name.startswith(b"dockerd") for name in _commands())


def _commands() -> Iterator[bytes]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                yield (entry / "comm").read_bytes()


# --- the image ------------------------------------------------------------------------------------------------------------------


def build_python(url: str) -> None:
    """Import the image, unless the engine has it: this interpreter, the SDK and the ready-made components, and little else.

    ``sys.executable`` is a link to its interpreter, under each of the names that it has in its directory, so that a command that
    runs here runs there.
    """
    with contextlib.closing(client(url)) as api:
        if api.images(PYTHON_IMAGE):
            return
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as packed:
            _pack(packed)
        data.seek(0)
        environment = f"ENV PATH={HOME}/bin:/usr/local/bin:/usr/bin:/bin"
        name, _, tag = PYTHON_IMAGE.partition(":")
        api.import_image_from_data(data.getvalue(), repository=name, tag=tag, changes=[environment])


def _pack(packed: tarfile.TarFile) -> None:
    names: set[str] = set()
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = f"{HOME}/lib/{version}/site-packages"
    real = Path(os.path.realpath(sys.executable))
    _file(packed, names, real, f"{HOME}/bin/{version}")
    for name in ("python3", "python"):
        _link(packed, names, f"{HOME}/bin/{name}", version)
    for name in (sys.executable, *(str(Path(sys.executable).parent / name) for name in ("python3", "python"))):
        _link(packed, names, name, f"{HOME}/bin/{version}")
    for path in sorted((base / "lib" / version).rglob("*")):
        relative = path.relative_to(base / "lib" / version)
        if path.is_file() and relative.parts[0] != "site-packages" and not _LEFT_OUT.search(str(relative)):
            _file(packed, names, path, f"{HOME}/lib/{version}/{relative}")
    packages = list(_distributions("flowctl-nats"))
    for path, relative in packages:
        _file(packed, names, path, f"{site}/{relative}")
    for folder in _PACKAGES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                _file(packed, names, path, f"{site}/{(ROOT / folder).name}/{path.relative_to(ROOT / folder)}")
    shell = shutil.which("sh")
    if shell is not None:
        _file(packed, names, Path(os.path.realpath(shell)), "/bin/sh")
    libraries = [real, Path(os.path.realpath(shell or real)), *(base / "lib" / version / "lib-dynload").glob("*.so")]
    libraries += [path for path, _ in packages if path.suffix == ".so"]
    for library in sorted(_libraries(libraries)):
        if "site-packages" not in library:
            _file(packed, names, Path(os.path.realpath(library)), library)
    _text(packed, names, "/etc/passwd", "root:x:0:0:root:/:/bin/sh\napp:x:1234:2345:app:/:/bin/sh\n")
    _text(packed, names, "/etc/group", "root:x:0:\napp:x:2345:\n")
    _text(packed, names, "/awkward/plain", "echo hello\n")
    _text(packed, names, "/awkward/empty", "", mode=0o755)
    for folder in ("/tmp", "/run", "/var/lib", "/proc", "/sys", "/dev"):
        entry = tarfile.TarInfo(folder.lstrip("/"))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "/tmp" else 0o755
        packed.addfile(entry)


def _distributions(name: str) -> Iterator[tuple[Path, str]]:
    """The files of everything that a distribution needs at run time, with their places in site-packages."""
    seen: set[str] = set()
    left = [name]
    while left:
        current = re.split(r"[ ;<>=!~\[(]", left.pop(), maxsplit=1)[0].lower()
        if current in seen or current in {"kubernetes", "docker"}:
            continue
        seen.add(current)
        try:
            distribution = importlib.metadata.distribution(current)
        except importlib.metadata.PackageNotFoundError:
            continue
        left += [each for each in distribution.requires or [] if "extra ==" not in each]
        for file in distribution.files or [] if current != name else []:
            path = Path(str(distribution.locate_file(file)))
            if path.is_file() and "__pycache__" not in path.parts and ".." not in file.parts:
                yield path, str(file)


def _libraries(programs: list[Path]) -> set[str]:
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    return {found for found in re.findall(r"(?:=>\s+|^\s+)(/\S+)", told, re.MULTILINE) if not found.endswith(":")}


def _file(packed: tarfile.TarFile, names: set[str], path: Path, name: str) -> None:
    if name in names:
        return
    names.add(name)
    entry = packed.gettarinfo(path, name.lstrip("/"))
    entry.uid = entry.gid = 0
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    with path.open("rb") as file:
        packed.addfile(entry, file)


def _text(packed: tarfile.TarFile, names: set[str], name: str, text: str, *, mode: int = 0o644) -> None:
    names.add(name)
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.size, entry.mode = len(text.encode()), mode
    packed.addfile(entry, io.BytesIO(text.encode()))


def _link(packed: tarfile.TarFile, names: set[str], name: str, target: str) -> None:
    if name in names:
        return
    names.add(name)
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    packed.addfile(entry)


def main() -> int:
    """Run a command with an engine; its exit code."""
    with running() as url:
        return subprocess.run(
            sys.argv[1:], env={**os.environ, "TEST_DOCKER_HOST": url, "TEST_DOCKER": "required"}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
