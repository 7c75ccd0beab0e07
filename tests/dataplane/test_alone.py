"""Components without a control plane, and settings that cannot be obeyed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flowctl_sdk.serve import transport_settings
from support.stream_fleet import PROGRAMS, eventually


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(directory: Path, program: str, **env: str) -> "subprocess.Popen[bytes]":
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")},
        "FLOWCTL_HEALTH_LISTEN": "127.0.0.1:0",
        "FLOWCTL_STATE_DIR": str(directory / program),
        **env,
    }
    with (directory / f"{program}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, str(PROGRAMS), program], env=environment, stderr=log, stdout=log)


def test_a_pipeline_by_hand(tmp_path: Path):
    """Without FLOWCTL_ENDPOINT components find each other by FLOWCTL_INPUTS, and end when the source does."""
    source, middle = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    processes = [
        start(tmp_path, "store", FLOWCTL_INPUTS=middle, FLOWCTL_CONFIG=f'{{"path": "{tmp_path}/out"}}'),
        start(tmp_path, "double", FLOWCTL_INPUTS=source, FLOWCTL_LISTEN=middle),
        start(tmp_path, "numbers", FLOWCTL_LISTEN=source, FLOWCTL_CONFIG='{"count": 1000}'),
    ]
    try:
        eventually(lambda: all(process.poll() == 0 for process in processes), "everybody ends with 0")
    finally:
        for process in processes:
            process.kill()
            process.wait(5)
    ids = [line.split(b" ")[0].decode() for line in (tmp_path / "out").read_bytes().splitlines()]
    assert ids == [f"numbers.0:{n}/double.0" for n in range(1_000)]


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"FLOWCTL_ENDPOINT": "nowhere"}, "FLOWCTL_ENDPOINT: expected host:port, found 'nowhere'"),
        ({"FLOWCTL_ENDPOINT": "localhost:1"}, "FLOWCTL_PIPELINE is not set"),
        ({"FLOWCTL_LISTEN": ":50051"}, "FLOWCTL_LISTEN: expected host:port, found ':50051'"),
        ({"FLOWCTL_LISTEN": "localhost:70000"}, "FLOWCTL_LISTEN: expected host:port"),
        ({"FLOWCTL_CONFIG": "[1]"}, "FLOWCTL_CONFIG: expected a JSON object"),
        ({"FLOWCTL_CONFIG_FILE": "/nonexistent"}, "FLOWCTL_CONFIG_FILE: cannot read /nonexistent"),
        ({"FLOWCTL_COMPONENT_KIND": "sink"}, "FLOWCTL_COMPONENT_KIND is 'sink', but this program is a source"),
        ({"FLOWCTL_COMPONENT_ID": "Not An Id"}, "not a valid component id"),
        ({"FLOWCTL_INSTANCE_INDEX": "-1"}, "not an instance index"),
        ({"FLOWCTL_INCARNATION": "x"}, "FLOWCTL_INCARNATION: expected a whole number"),
        ({"FLOWCTL_STOP_TIMEOUT_S": "nan"}, "FLOWCTL_STOP_TIMEOUT_S: expected seconds"),
        ({"FLOWCTL_LOG_LEVEL": "loud"}, "FLOWCTL_LOG_LEVEL: expected one of"),
        ({"FLOWCTL_ON_ERROR": '{"action": "panic"}'}, "FLOWCTL_ON_ERROR: "),
        ({"FLOWCTL_ON_ERROR": '{"action": "dead_letter"}'}, "dead_letter needs a registry"),
    ],
)
def test_bad_settings(tmp_path: Path, env: dict[str, str], sentence: str):
    """One clear sentence that names the variable, exit 2, no traceback."""
    process = start(tmp_path, "numbers", **env)
    assert process.wait(20) == 2
    said = (tmp_path / "numbers.log").read_text()
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_port_that_is_taken(tmp_path: Path):
    """Two components on one port: the second fails and says which."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(tmp_path, "numbers", FLOWCTL_LISTEN=address, FLOWCTL_CONFIG='{"count": 1}')
        assert process.wait(20) == 1
    assert f"cannot listen on {address}" in (tmp_path / "numbers.log").read_text()


def test_grpc_is_set_up_only_as_it_was_tried():
    """Components run without gRPC's event engine where that was tried; another version is not told names that it may not know."""
    assert transport_settings("1.85.1")["GRPC_EXPERIMENTS"].startswith("-event_engine")
    assert "GRPC_EXPERIMENTS" not in transport_settings("2.0.0")
    imported = "import sys, flowctl_sdk, flowctl_sdk.serve; print('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True).stdout == "False\n"
