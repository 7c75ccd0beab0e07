"""The files that a container is given, as the tar archive that the engine takes. Pure but for the memory that it writes to."""

import io
import tarfile
from collections.abc import Mapping, Sequence


def archive(files: Mapping[str, bytes], uid: int, gid: int, *, folders: Sequence[str] = ()) -> bytes:
    """A tar archive of files that only one user can read, and folders that are theirs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for folder in sorted({*folders, *(name.rpartition("/")[0] for name in files if "/" in name)}):
            _add(packed, folder, uid, gid, mode=0o700, kind=tarfile.DIRTYPE)
        for name, data in files.items():
            _add(packed, name, uid, gid, mode=0o600, data=data)
    return buffer.getvalue()


def _add(
    packed: tarfile.TarFile, name: str, uid: int, gid: int, *, mode: int, data: bytes = b"", kind: bytes = tarfile.REGTYPE
) -> None:
    entry = tarfile.TarInfo(name)
    entry.uid, entry.gid, entry.mode, entry.size, entry.type = uid, gid, mode, len(data), kind
    packed.addfile(entry, io.BytesIO(data))
