"""What a component is started with: who it is, what it inherits, and where secrets go."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.errors import UserError
from flowctl.fleet import Assignment
from flowctl.ids import InstanceId
from flowctl.spec.model import Component, Kind
from flowctl_agent.drivers import Launch, RunKey
from flowctl_agent.environment import Place, Surroundings, base_environment, prepare, working_directory
from flowctl_agent.service import read_secret

KEY = RunKey(InstanceId("orders", "reader", 2), 5)


def assignment(kind: Kind = "source", **fields: Any) -> Assignment:
    """An assignment of the reader."""
    component = msgspec.convert({"id": "reader", **fields}, Component)
    return Assignment(seq=41, host="here", kind=kind, driver="process", revision=1, component=component)


def prepared(
    of: Assignment, *, env: dict[str, str] | None = None, advertise: str = "127.0.0.1", cwd: Path | None = None
) -> Launch:
    """The launch on a host with that environment."""
    surroundings = Surroundings(
        registry="127.0.0.1:8080,10.0.0.1:8080",
        advertise_host=advertise,
        python="/venv/bin/python",
        log_level="info",
        log_format="console",
        env=env or {},
    )
    return prepare(KEY, of, surroundings, Place(cwd=cwd, read_file=read_secret))


def test_the_whole_environment():
    """Every variable that the SDK's documentation promises, and none besides."""
    launch = prepared(assignment(command=["run"], stop_timeout_s=12.5, env={"MODE": "fast"}), env={"HOME": "/users/me"})
    on_error = json.loads(launch.env.pop("FLOWCTL_ON_ERROR"))
    assert on_error == {
        "action": "fail",
        "attempts": 3,
        "backoff": {"initial_s": 0.1, "max_s": 30.0, "multiplier": 2.0},
    }
    assert launch.env == {
        "HOME": "/users/me",
        "PATH": "/venv/bin",
        "MODE": "fast",
        "PYTHONUNBUFFERED": "1",
        "FLOWCTL_ENDPOINT": "127.0.0.1:8080,10.0.0.1:8080",
        "FLOWCTL_PIPELINE": "orders",
        "FLOWCTL_COMPONENT_ID": "reader",
        "FLOWCTL_INSTANCE_INDEX": "2",
        "FLOWCTL_INCARNATION": "5",
        "FLOWCTL_COMPONENT_KIND": "source",
        "FLOWCTL_LISTEN": "127.0.0.1:0",
        "FLOWCTL_ADVERTISE_HOST": "127.0.0.1",
        "FLOWCTL_HEALTH_LISTEN": "127.0.0.1:0",
        "FLOWCTL_LOG_LEVEL": "info",
        "FLOWCTL_LOG_FORMAT": "console",
        "FLOWCTL_STOP_TIMEOUT_S": "12.5",
    }
    assert (launch.key, launch.assignment, launch.argv, launch.stop_timeout_s) == (KEY, 41, ["run"], 12.5)


@pytest.mark.parametrize(
    ("advertise", "listen"),
    [
        ("localhost", "127.0.0.1:0"),
        ("10.1.2.3", "10.1.2.3:0"),
        ("::1", "[::1]:0"),
        ("worker-7.example.org", "0.0.0.0:0"),
    ],
)
def test_where_components_listen(advertise: str, listen: str):
    """On the advertised address alone where it is one; loopback stays loopback."""
    assert prepared(assignment(command=["run"]), advertise=advertise).env["FLOWCTL_LISTEN"] == listen


def test_fixed_ports():
    """Are what the file says."""
    launch = prepared(assignment(command=["run"], ports={"data": 5000, "health": 5001}))
    assert (launch.env["FLOWCTL_LISTEN"], launch.env["FLOWCTL_HEALTH_LISTEN"]) == ("127.0.0.1:5000", "127.0.0.1:5001")


def test_nobody_can_pretend_to_be_somebody_else():
    """A component's own env does not override who it is."""
    launch = prepared(assignment(command=["run"], env={"FLOWCTL_INCARNATION": "99", "FLOWCTL_ENDPOINT": "evil:1"}))
    assert launch.env["FLOWCTL_INCARNATION"] == "5"
    assert launch.env["FLOWCTL_ENDPOINT"].startswith("127.0.0.1")


@given(
    st.dictionaries(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="="), min_size=1), st.text())
)
def test_what_is_inherited(env: dict[str, str]):
    """Everything but flowctl's own variables, NATS' and the dynamic linker's."""
    given = {**env, "FLOWCTL_NATS_URL": "nats://user:secret@x", "NATS_CREDS": "/x", "LD_PRELOAD": "/evil.so", "PATH": "/bin"}
    kept = base_environment(given, "/venv/bin/python")
    assert not [name for name in kept if name.startswith(("FLOWCTL_", "NATS_", "LD_"))]
    assert kept["PATH"] == "/venv/bin:/bin", "python is the one that has the SDK"
    assert base_environment({"PATH": "/a:/venv/bin"}, "/venv/bin/python")["PATH"] == "/a:/venv/bin"
    assert all(kept[name] == value for name, value in env.items() if name in kept and name != "PATH")


def test_secrets_are_in_config_and_env_only(tmp_path: Path):
    """References are filled in where they may stand; the command line has them as they were written, or not at all."""
    (tmp_path / "token").write_text("file-secret\n")
    fields: dict[str, Any] = {
        "command": ["run"],
        "args": ["--verbose"],
        "config": {"deep": [{"password": "${env:PASSWORD}"}], "token": "${file:token}"},
        "env": {"TOKEN": "a-${env:PASSWORD}-b"},
    }
    launch = prepared(assignment(**fields), env={"PASSWORD": "env-secret"}, cwd=tmp_path)
    assert json.loads(launch.config) == {"deep": [{"password": "env-secret"}], "token": "file-secret"}
    assert launch.env["TOKEN"] == "a-env-secret-b"
    assert launch.argv == ["run", "--verbose"]
    assert launch.secrets == ("file-secret", "env-secret")


def test_what_is_to_be_kept_out_of_the_output():
    """Every line of what was filled in, also as JSON writes it; not what is as short as a flag, nor the defaults of the file."""
    config = {"key": "${env:KEY}", "mode": "${env:MODE}", "level": "${env:LEVEL:-verbose}"}
    launch = prepared(assignment(command=["run"], config=config), env={"KEY": 'BEGIN KEY\n  grün"1\nEND', "MODE": "quick"})
    assert set(launch.secrets) == {
        "BEGIN KEY",
        'grün"1',
        'grün\\"1',
        'gr\\u00fcn\\"1',
        'BEGIN KEY\\n  grün\\"1\\nEND',
        'BEGIN KEY\\n  gr\\u00fcn\\"1\\nEND',
    }
    assert [len(text) for text in launch.secrets] == sorted((len(text) for text in launch.secrets), reverse=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"config": {"a": "${env:MISSING}"}}, ["MISSING", "not set"]),
        ({"config": {"a": "${file:/no/such}"}}, ["/no/such"]),
        ({"config": {"a": "${file:relative}"}}, ["relative", "directory"]),
        ({"config": {"a": "${file:/dev/zero}"}}, ["/dev/zero", "regular"]),
        ({"env": {"A": "${env:MISSING}"}}, ["MISSING"]),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, Any], words: list[str]):
    """One sentence with the name of what is not there; never a content."""
    with pytest.raises(UserError) as caught:
        prepared(assignment(command=["run"], **fields))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("A=B", "x"), ("A", "x\0y"), ("", "x")])
def test_a_variable_that_no_kernel_takes(name: str, value: str):
    """Is refused by name."""
    with pytest.raises(UserError, match="cannot be an environment variable"):
        prepared(assignment(command=["run"], env={name: value}))


@pytest.mark.parametrize("kind", ["source", "sink"])
def test_a_ready_made_component(kind: Kind):
    """Runs with this Python; its kind is told; a module of the pipeline's directory cannot take its place."""
    launch = prepared(assignment(kind, type="file", args=["--x"]))
    assert launch.argv[:3] == ["/venv/bin/python", "-P", "-m"]
    assert launch.argv[3].startswith("flowctl_components.file")
    assert launch.argv[4:] == ["--x"]
    assert launch.env["FLOWCTL_COMPONENT_KIND"] == kind


@pytest.mark.parametrize("fields", [{"type": "no-such-type"}, {"image": "x:1"}])
def test_what_no_process_can_be(fields: dict[str, Any]):
    """Is refused with a sentence."""
    with pytest.raises(UserError):
        prepared(assignment(**fields))


def test_the_working_directory(tmp_path: Path):
    """The pipeline file's, where this host has it."""
    assert working_directory(str(tmp_path / "pipeline.yaml"), Path.is_dir) == tmp_path
    assert working_directory("/no/such/place/pipeline.yaml", Path.is_dir) is None
    assert working_directory("pipeline.yaml", Path.is_dir) is None
    assert working_directory("", Path.is_dir) is None
