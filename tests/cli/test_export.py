"""`flowctl export`: files that others can read, hardened, and without a secret."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowctl.errors import UserError
from flowctl.spec.load import load
from flowctl_cli import exports
from support.flowctl import Flowctl

TEXT = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: orders}
spec:
  sources:
    - {id: read, type: generator, config: {count: 10, note: "${env:NOTE:-none}"}}
  processors:
    - {id: parse, command: [cat], inputs: [read], env: {KEY: "${env:API_KEY}", PLAIN: "$${env:NOT}"}DRIVER}
  sinks:
    - {id: show, type: console, inputs: [parse], stop_timeout_s: 5}
"""


def pipeline_file(tmp_path: Path, *, driver: str = "") -> Path:
    """A pipeline file in a directory with an awkward name."""
    folder = tmp_path / 'it\'s 100% "mine" $HOME'
    folder.mkdir()
    file = folder / "pipe line.yaml"
    file.write_text(TEXT.replace("DRIVER", f", driver: {driver}" if driver else ""))
    return file


def test_a_compose_file_runs_the_pipeline_strictly(tmp_path: Path):
    """It is YAML, mounts the file's directory read-only, drops everything, and passes variables through by name."""
    file = pipeline_file(tmp_path)
    told: dict[str, Any] = yaml.safe_load(exports.compose(load(file).pipeline, file, "flowctl:1"))
    service = told["services"]["orders"]
    assert service["command"] == ["flowctl", "run", "--yes", "/pipeline/pipe line.yaml"]
    assert service["volumes"][0]["source"] == str(file.parent).replace("$", "$$")
    assert service["volumes"][0]["read_only"] is True
    assert (service["cap_drop"], service["read_only"], service["security_opt"]) == (["ALL"], True, ["no-new-privileges:true"])
    state = {"FLOWCTL_STATE_DIR": "/var/lib/flowctl", "FLOWCTL_NAME": "orders"}
    assert service["environment"] == {**state, "API_KEY": None, "NOTE": None}
    assert service["stop_grace_period"] == "80s"
    assert "network_mode" not in service


def test_a_pipeline_of_containers_gets_the_engine_and_is_told_so(tmp_path: Path):
    """The socket is root on the host: the file says that in words."""
    file = pipeline_file(tmp_path, driver="docker")
    text = exports.compose(load(file).pipeline, file, "flowctl:1")
    service = yaml.safe_load(text)["services"]["orders"]
    assert "/var/run/docker.sock" in [mount["target"] for mount in service["volumes"]]
    assert "everything on the host" in text
    assert service["network_mode"] == "host"


def test_what_components_may_write_to_is_named_one_by_one(tmp_path: Path):
    """A directory below the file's, and no other; it is there in both forms."""
    file = pipeline_file(tmp_path)
    folder = file.parent / "my out"
    flowctl = Flowctl(tmp_path)
    assert "mkdir" in flowctl.run("export", "compose", str(file), "--writable", "my out", expect=2).stderr
    assert "not below" in flowctl.run("export", "compose", str(file), "--writable", "..", expect=2).stderr
    assert "not below" in flowctl.run("export", "systemd", str(file), "--writable", ".", expect=2).stderr
    folder.mkdir()
    text = flowctl.run("export", "compose", str(file), "--writable", "my out").stdout
    mounts = yaml.safe_load(text)["services"]["orders"]["volumes"]
    assert mounts[1] == {"type": "bind", "source": str(folder).replace("$", "$$"), "target": "/pipeline/my out"}
    unit = flowctl.run("export", "systemd", str(file), "--writable", "my out").stdout
    assert f'ReadWritePaths="{str(folder).replace("%", "%%").replace(chr(34), chr(92) + chr(34))}"' in unit


def test_systemd_takes_the_unit(tmp_path: Path):
    """`systemd-analyze verify` finds nothing wrong with it, awkward paths included."""
    file = pipeline_file(tmp_path)
    program = tmp_path / "flowctl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "flowctl-orders.service"
    unit.write_text(exports.systemd(load(file).pipeline, file, program, [file.parent]))
    assert "must set: API_KEY, NOTE" in unit.read_text()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    about = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert about == [], about
    assert done.returncode == 0, done.stderr


def test_a_path_that_no_unit_can_hold_is_refused(tmp_path: Path):
    """In one sentence."""
    file = pipeline_file(tmp_path)
    with pytest.raises(UserError, match="cannot stand in a unit"):
        exports.systemd(load(file).pipeline, Path("/a\nb/pipeline.yaml"), Path("/usr/bin/flowctl"))


def test_the_command(tmp_path: Path):
    """It writes to standard output; what cannot be exported is refused with code 2."""
    file = pipeline_file(tmp_path)
    flowctl = Flowctl(tmp_path)
    assert yaml.safe_load(flowctl.run("export", "compose", str(file)).stdout)["name"] == "orders"
    assert "ExecStart=" in flowctl.run("export", "systemd", str(file)).stdout
    assert "name a file" in flowctl.run("export", "compose", "-", expect=2).stderr
    assert "belongs to compose" in flowctl.run("export", "systemd", str(file), "--image", "x", expect=2).stderr
