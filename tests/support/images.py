"""Images for the tests, made of this machine's own parts, since there is no registry to pull from.

``PYTHON_IMAGE`` has this interpreter, the SDK and the ready-made components; ``BASE_IMAGE`` the interpreter alone, with what an
image is built with, as ``python:3.11-slim`` has it.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker

ROOT = Path(__file__).parent.parent.parent
HOME = "/opt/python"
_PACKAGES = ("core/flowctl", "sdk/flowctl_sdk", "components/flowctl_components", "tests/support/programs")


def _content() -> str:
    """A name for what the image is made of, so that an old one is not taken for it."""
    digest = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes() + (ROOT / "constraints.txt").read_bytes())
    for folder in _PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


PYTHON_IMAGE = f"flowctl-test/python:{_content()}"
BASE_IMAGE = f"flowctl-test/base:{_content()}"
_LEFT_OUT = re.compile(r"(^|/)(test|tests|idlelib|lib2to3|turtledemo|tkinter|__pycache__|config-3[^/]*)(/|$)")
_PATH = f"{HOME}/bin:/usr/local/bin:/usr/bin:/bin"
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_ASSUMED = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libresolv.so.2", "libstdc++.so.6", "libgcc_s.so.1")
"""What wheels for Linux may take for granted of every system."""
_INTERPRETER = Path(os.path.realpath(sys.executable))


def build_python(url: str) -> None:
    """Import ``PYTHON_IMAGE``, unless the engine has it.

    ``sys.executable`` is a link to its interpreter, under each of the names that it has in its directory, so that a command that
    runs here runs there.
    """
    _import(url, PYTHON_IMAGE, _pack_python)


def build_base(url: str) -> None:
    """Import ``BASE_IMAGE``, unless the engine has it."""
    _import(url, BASE_IMAGE, _pack_base)


def _import(url: str, image: str, pack: Callable[[tarfile.TarFile], None]) -> None:
    api: Any = docker.APIClient(base_url=url, version="auto", timeout=60)
    with contextlib.closing(api):
        if api.images(image):
            return
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as packed:
            pack(packed)
        data.seek(0)
        name, _, tag = image.partition(":")
        api.import_image_from_data(data.getvalue(), repository=name, tag=tag, changes=[f"ENV PATH={_PATH}"])


def _pack_base(packed: tarfile.TarFile) -> None:
    names: set[str] = set()
    _pack_interpreter(packed, names)
    _pack_programs(packed, names, ["sh", "mkdir", "chown"], [])
    told = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    for library in _ASSUMED:
        found = re.search(rf"^\s*{re.escape(library)} .*=> (\S+)$", told, re.MULTILINE)
        if found is not None:
            _file(packed, names, Path(os.path.realpath(found[1])), found[1])


def _pack_python(packed: tarfile.TarFile) -> None:
    names: set[str] = set()
    _pack_interpreter(packed, names)
    for name in (sys.executable, *(str(Path(sys.executable).parent / name) for name in ("python3", "python"))):
        _link(packed, names, name, f"{HOME}/bin/{_VERSION}")
    site = f"{HOME}/lib/{_VERSION}/site-packages"
    packages = list(_distributions("flowctl-nats"))
    for path, relative in packages:
        _file(packed, names, path, f"{site}/{relative}")
    for folder in _PACKAGES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                _file(packed, names, path, f"{site}/{(ROOT / folder).name}/{path.relative_to(ROOT / folder)}")
    _pack_programs(packed, names, ["sh"], [path for path, _ in packages if path.suffix == ".so"])
    _text(packed, names, "/awkward/plain", "echo hello\n")
    _text(packed, names, "/awkward/empty", "", mode=0o755)


def _pack_interpreter(packed: tarfile.TarFile, names: set[str]) -> None:
    """This interpreter and its standard library, in ``HOME``."""
    library = Path(sys.base_prefix) / "lib" / _VERSION
    _file(packed, names, _INTERPRETER, f"{HOME}/bin/{_VERSION}")
    for name in ("python3", "python"):
        _link(packed, names, f"{HOME}/bin/{name}", _VERSION)
    for path in sorted(library.rglob("*")):
        relative = path.relative_to(library)
        if path.is_file() and relative.parts[0] != "site-packages" and not _LEFT_OUT.search(str(relative)):
            _file(packed, names, path, f"{HOME}/lib/{_VERSION}/{relative}")


def _pack_programs(packed: tarfile.TarFile, names: set[str], programs: list[str], more: list[Path]) -> None:
    """Programs of this machine, the libraries that they, the interpreter and ``more`` need, and what every image has."""
    found = {name: Path(os.path.realpath(path)) for name in programs if (path := shutil.which(name)) is not None}
    for name, path in found.items():
        _file(packed, names, path, f"/bin/{name}")
    modules = (Path(sys.base_prefix) / "lib" / _VERSION / "lib-dynload").glob("*.so")
    for library in sorted(_libraries([_INTERPRETER, *found.values(), *modules, *more])):
        if "site-packages" not in library:
            _file(packed, names, Path(os.path.realpath(library)), library)
    _text(packed, names, "/etc/passwd", "root:x:0:0:root:/:/bin/sh\napp:x:1234:2345:app:/:/bin/sh\n")
    _text(packed, names, "/etc/group", "root:x:0:\napp:x:2345:\n")
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
