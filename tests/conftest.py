"""What all tests share: hypothesis settings, a state directory of each test's own, and logging as it was before."""

import logging
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "flowctl", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("flowctl")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # pyright: ignore[reportUnusedFunction] - autouse
    """No test sees or touches the state of the user who runs it."""
    for name in list(os.environ):
        if name.startswith("FLOWCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWCTL_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _own_logging() -> Generator[None]:  # pyright: ignore[reportUnusedFunction] - autouse
    """A command or a component that is run inside a test sets the levels of this process: they are put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logger.level for name, logger in _loggers().items()}
    yield
    for name, logger in _loggers().items():
        logger.setLevel(levels.get(name, logging.NOTSET))
    root.handlers[:] = [handler for handler in root.handlers if handler in handlers]
    root.setLevel(level)


def _loggers() -> dict[str, logging.Logger]:
    """Flowctl's loggers by name."""
    known = logging.getLogger().manager.loggerDict
    return {name: each for name, each in known.items() if name.startswith("flowctl") and isinstance(each, logging.Logger)}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """The state directory of this test (also in ``FLOWCTL_STATE_DIR``)."""
    return tmp_path / "state"


@pytest.fixture(scope="session")
def engine() -> Generator[str]:
    """The URL of a real Docker engine with an image of this machine's Python; skipped, with the reason, where none can run."""
    from support import engine

    reason = engine.why_none()
    if reason is not None:
        assert os.environ.get("TEST_DOCKER") != "required", f"a Docker engine is required: {reason}"
        pytest.skip(f"no Docker engine: {reason}")
    with engine.running() as url:
        yield url
