"""What the engine is told about a container, strict and without secrets, and how a container's end is read."""

import json
import signal
from typing import Any

import msgspec
import pytest

from flowctl.fleet import Assignment
from flowctl.spec.containers import loosened
from flowctl.spec.model import Component
from flowctl.spec.model import Container as Options
from flowctl_agent.drivers import Launch
from flowctl_agent.drivers.docker import recipe
from flowctl_agent.drivers.docker.engine import Container, Image
from flowctl_agent.drivers.docker.recipe import Ports, Spot
from flowctl_agent.environment import Place, Surroundings, prepare
from support.agents import key

SPOT = Spot(
    network="flowctl.orders.me",
    address="10.9.0.2",
    registry="10.9.0.1:8080",
    listen="0.0.0.0",
    advertise="10.9.0.2",
    ports=Ports(),
)
IMAGE = Image(id="sha256:1", user="", has_program=True)


def launch(**fields: Any) -> Launch:
    """The launch of a component of that description by the docker driver."""
    component = msgspec.convert({"id": "worker", "image": "parse:1", **fields}, Component)
    assignment = Assignment(seq=7, host="here", kind="source", driver="docker", revision=1, component=component)
    surroundings = Surroundings(
        registry="127.0.0.1:8080",
        advertise_host="127.0.0.1",
        python="/venv/bin/python",
        log_level="info",
        log_format="console",
        env={"PW": "hush-hush", "HOME": "/users/me", "NATS_TOKEN": "x"},
        image="flowctl:1",
    )
    return prepare(key(), assignment, surroundings, Place(cwd=None, read_file=lambda _: "from a file"))


def config(of: Launch, image: Image = IMAGE, spot: Spot = SPOT) -> dict[str, Any]:
    """What the engine is told."""
    return recipe.container_config("me", of, image, spot, log_file_bytes=1_000, log_files=2)


def test_a_container_is_strict_unless_somebody_says_otherwise():
    """No root, no capability, no way to gain one, nothing writable but scratch and state, a limit of processes, no restarts."""
    told = config(launch())
    host = told["HostConfig"]
    assert told["User"] == "65532:65532"
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], [], False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["PidsLimit"] == 512
    assert host["Tmpfs"] == {"/tmp": "rw,noexec,nosuid,nodev,mode=1777,size=67108864"}
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["NetworkMode"] == "flowctl.orders.me"
    assert host["PortBindings"] == {}
    assert [(mount["Type"], mount["Target"]) for mount in host["Mounts"]] == [
        ("volume", "/run/flowctl"),
        ("volume", "/var/lib/flowctl"),
    ]


@pytest.mark.parametrize(
    ("container", "field", "value", "word"),
    [
        ({"user": "0"}, "User", "0", "runs as root"),
        ({"read_only": False}, "ReadonlyRootfs", False, "writable root file system"),
        ({"capabilities": ["NET_RAW"]}, "CapAdd", ["NET_RAW"], "capabilities NET_RAW"),
        ({"new_privileges": True}, "SecurityOpt", [], "may gain privileges"),
        ({"privileged": True}, "Privileged", True, "privileged"),
        ({"pids": 4000}, "PidsLimit", 4000, "up to 4,000 processes"),
    ],
)
def test_what_the_file_loosens_is_loosened_and_said(container: dict[str, Any], field: str, value: object, word: str):
    """One thing at a time, and nothing else with it."""
    told = config(launch(container=container))
    before = config(launch())
    found = told if field == "User" else told["HostConfig"]
    assert found[field] == value
    assert loosened(msgspec.convert({"id": "x", "container": container}, Component)) == [word]
    if field not in ("User", "Privileged"):
        del told["HostConfig"][field], before["HostConfig"][field]
        assert told == before


def test_secrets_are_files_and_never_in_what_inspect_shows():
    """Neither the value of a reference nor the agent's environment is told to the engine; the files are the program's alone."""
    of = launch(env={"PASSWORD": "${env:PW}", "MODE": "fast"}, config={"token": "${file:/t}", "n": 1})
    told = json.dumps(config(of))
    assert "hush-hush" not in told
    assert "from a file" not in told
    assert "/users/me" not in told
    assert "NATS_TOKEN" not in told
    env = dict(pair.split("=", 1) for pair in config(of)["Env"])
    assert env["PASSWORD_FILE"] == "/run/flowctl/env/PASSWORD"
    assert "PASSWORD" not in env
    assert env["MODE"] == "fast"
    assert recipe.files_of(of) == {"config.json": b'{"token":"from a file","n":1}', "env/PASSWORD": b"hush-hush"}


def test_secrets_may_be_variables_if_the_file_says_so():
    """For a program that can read nothing else."""
    of = launch(env={"PASSWORD": "${env:PW}"}, container={"secrets_in_env": True})
    assert "PASSWORD=hush-hush" in config(of)["Env"]
    assert "env/PASSWORD" not in recipe.files_of(of)


def test_what_runs():
    """The image's own program with the args behind it; a command in its place; a ready-made one in flowctl's image."""
    alone = config(launch(args=["--fast"]))
    assert (alone.get("Entrypoint"), alone["Cmd"], alone["Image"]) == (None, ["--fast"], "parse:1")
    assert "Cmd" not in config(launch())
    command = config(launch(command=["parse", "-v"], args=["x"]))
    assert (command["Entrypoint"], command["Cmd"]) == (["parse"], ["-v", "x"])
    ready = config(launch(image=None, type="generator"))
    assert (ready["Image"], ready["Entrypoint"]) == ("flowctl:1", ["python"])


def test_limits_and_published_ports():
    """Memory cannot be escaped into swap; a published port is the same outside and inside, at one address only."""
    spot = msgspec.structs.replace(SPOT, ports=Ports(7001, 0, "10.0.0.5"))
    host = config(launch(resources={"cpu": 1.5, "memory_bytes": 64 << 20}), spot=spot)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 << 20, 64 << 20, 1_500_000_000)
    assert host["PortBindings"] == {"7001/tcp": [{"HostIp": "10.0.0.5", "HostPort": "7001"}]}


@pytest.mark.parametrize(
    ("image", "file", "chosen"),
    [
        ("", None, "65532:65532"),
        ("root", None, "65532:65532"),
        ("0:0", None, "65532:65532"),
        ("app", None, "app"),
        ("app", "7", "7"),
    ],
)
def test_the_user(image: str, file: str | None, chosen: str):
    """The file's, else the image's if that is not root, else nobody."""
    assert recipe.chosen_user(Options(user=file), Image("x", image, has_program=True)) == chosen


@pytest.mark.parametrize(
    ("user", "ids"), [("app", (1234, 2345)), ("app:staff", (1234, 50)), ("7", (7, 7)), ("1234", (1234, 2345)), ("7:8", (7, 8))]
)
def test_the_files_belong_to_the_user(user: str, ids: tuple[int, int]):
    """Names mean what the image's own files say."""
    assert recipe.user_ids(user, "root:x:0:0::/:\napp:x:1234:2345::/:\n", "root:x:0:\nstaff:x:50:\n") == ids


def ended(code: int, **fields: Any) -> Container:
    """A container that has ended."""
    return Container(id="c", labels={}, state="exited", code=code, started="2026-01-01T00:00:01.5Z", **fields)


def test_how_an_end_reads():
    """Codes above 128 are signals; the kernel's kill is told apart; a program that is not there is a sentence."""
    plain = recipe.ending_of(ended(3), [], "i", [], oom=False)
    assert (plain.code, plain.signal, plain.started_ns) == (3, None, 1_767_225_601_500_000_000)
    killed = recipe.ending_of(ended(137), [], "i", [], oom=False)
    assert (killed.code, killed.signal, killed.cause) == (None, signal.SIGKILL, "")
    greedy = recipe.ending_of(ended(137, oom_killed=True), [], "i", [], oom=False)
    assert (greedy.signal, greedy.cause != "") == (signal.SIGKILL, True)
    assert recipe.ending_of(ended(255), [], "i", [], oom=False).code == 255
    fatal = ["[FATAL tini (7)] exec nope failed: No such file or directory"]
    missing = recipe.ending_of(ended(127), ["nope"], "parse:1", fatal, oom=False)
    assert missing.failure == "the program 'nope' cannot be started on the PATH in image parse:1: No such file or directory"
    unseen = recipe.ending_of(None, [], "i", [], oom=False)
    assert (unseen.code, unseen.signal) == (None, None)


def test_a_container_is_found_by_its_labels():
    """And whatever else carries labels is not taken for one."""
    assert recipe.key_of(config(launch())["Labels"]) == key()
    assert recipe.key_of({"flowctl.instance": "nonsense", "flowctl.incarnation": "1"}) is None
    assert recipe.key_of({}) is None
