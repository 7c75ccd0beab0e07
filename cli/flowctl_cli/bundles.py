"""Exported journals as files of this host."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from flowctl.errors import UserError
from flowctl.journal.bundle import BundleReader


@contextlib.contextmanager
def opened_bundle(file: Path) -> Generator[BundleReader]:
    """The exported file, opened.

    Raises:
        UserError: it cannot be read.
        DamagedFileError: it is none.
    """
    try:
        raw = file.open("rb")
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}", place=str(file)) from error
    with raw, BundleReader(raw, name=str(file)) as reader:
        yield reader
