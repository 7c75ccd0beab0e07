"""A stage for pipelines of real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stream_fleet import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Ends what was started on it."""
    stage = Stage(tmp_path)
    yield stage
    stage.close()
