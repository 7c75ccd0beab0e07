"""What `deploy/` says for containers is true of the programs that it starts."""

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from flowctl.settings import AgentSettings, HealthSettings, OrchestratorSettings, RegistrySettings, Settings, load_settings

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
PROGRAMS: dict[str, type[Settings]] = {
    "flowctl-registry": RegistrySettings,
    "flowctl-health": HealthSettings,
    "flowctl-orchestrator": OrchestratorSettings,
    "flowctl-agent": AgentSettings,
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The Compose file, its anchors filled in."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def runtime() -> ModuleType:
    """The script that picks what an image needs out of the constraints."""
    spec = importlib.util.spec_from_file_location("runtime", DEPLOY / "docker" / "runtime.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_service_is_there_and_strict(compose: dict[str, Any]):
    """Three NATS servers and each service on its own; none has a capability or a writable root."""
    services: dict[str, Any] = compose["services"]
    assert set(services) == {"nats-1", "nats-2", "nats-3", "registry", "health", "orchestrator", "agent"}
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "ports" not in service
    for name in ("nats-1", "nats-2", "nats-3"):
        assert services[name]["environment"]["NATS_NAME"] == name


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_is_one(compose: dict[str, Any], program: str, monkeypatch: pytest.MonkeyPatch):
    """The program takes the environment that the file gives it, and knows every variable in it."""
    service = next(each for each in compose["services"].values() if each["command"] == [program])
    kind = PROGRAMS[program]
    for name, value in service["environment"].items():
        assert name.removeprefix("FLOWCTL_").lower() in kind.model_fields, name
        monkeypatch.setenv(name, str(value))
    settings = load_settings(kind)
    assert settings.nats_url.count("nats://") == 3


def test_the_configuration_of_the_nats_servers(compose: dict[str, Any]):
    """What it acknowledges is on disk, and it routes to exactly the servers of the file."""
    text = (DEPLOY / "nats" / "cluster.conf").read_text()
    assert "sync_interval: always" in text
    routes = re.findall(r"nats://([\w-]+):6222", text)
    assert routes == [name for name in compose["services"] if name.startswith("nats-")]


def test_an_image_gets_what_runs_and_nothing_of_the_development():
    """Pinned and hashed as in constraints.txt: exactly what the installed packages need, and what builds the wheel."""
    root = DEPLOY.parent
    text = runtime().needed((root / "constraints.txt").read_text(), (root / "pyproject.toml").read_text())
    blocks = [block for block in re.split(r"\n(?=\S)", text) if "==" in block]
    assert all("--hash=sha256:" in block for block in blocks)
    chosen = {runtime().name_of(block) for block in blocks}
    needed = closure("flowctl-nats", "hatchling")
    assert needed <= chosen
    present = {runtime().name_of(each.metadata["Name"]) for each in importlib.metadata.distributions()}
    assert (chosen & present) - needed == set(), "needed by the development only: add it to ONLY_DEVELOPMENT"


def closure(*names: str) -> set[str]:
    """What the installed distributions need, their own names apart."""
    seen: set[str] = set()
    left = list(names)
    while left:
        name = runtime().name_of(re.split(r"[ (]", left.pop(), maxsplit=1)[0])
        if name in seen:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(name)
        left += [each for each in requires if "extra ==" not in each]
    return seen - {"flowctl-nats"}
