"""What all tests share: hypothesis settings, and a state directory of each test's own."""

import os
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


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """The state directory of this test (also in ``FLOWCTL_STATE_DIR``)."""
    return tmp_path / "state"
