"""The all-in-one server and the commands against it, as real processes in a state directory of their own."""

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from flowctl import api
from flowctl.errors import InvalidSettingError
from flowctl_cli import server_launch, server_record
from flowctl_cli.entries import EntryView
from flowctl_cli.server_record import ServerRecord
from flowctl_cli.session import Session
from support.flowctl import COMMAND, Flowctl, control_plane, until


@pytest.fixture(scope="module")
def flowctl(tmp_path_factory: pytest.TempPathFactory) -> Generator[Flowctl]:
    """A server in the background, shared by the tests of this module that only look."""
    with control_plane(tmp_path_factory.mktemp("server")) as running:
        running.run("server", "--detach")
        yield running


def test_the_record_says_how_the_server_is_reached(flowctl: Flowctl):
    """Only its owner may read it, because it holds the credential; every documented key is there."""
    path = flowctl.state / "server.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = flowctl.server
    assert set(record) == set(ServerRecord.__struct_fields__)
    with socket.create_connection(("127.0.0.1", int(record["registry"].rpartition(":")[2])), timeout=5):
        pass


def test_the_second_server_of_a_directory_is_refused(flowctl: Flowctl):
    """With the pid of the one that runs."""
    for words in (["server"], ["server", "--detach"]):
        assert f"pid {flowctl.server['pid']}" in flowctl.run(*words, expect=1).stderr


def test_every_read_is_json(flowctl: Flowctl):
    """One value on stdout, with the documented keys."""
    assert set(flowctl.json("status")) == set(api.StatusView.__struct_fields__)
    assert [set(host) for host in flowctl.json("hosts")] == [set(api.HostView.__struct_fields__)]
    history = flowctl.json("history")
    assert history[0]["type"] == "HostJoined"
    assert set(history[0]) == set(EntryView.__struct_fields__)
    assert flowctl.json("server", "status")["pid"] == flowctl.server["pid"]
    assert {finding["level"] for finding in flowctl.json("doctor")} == {"ok"}
    assert flowctl.json("version")["version"] == flowctl.server["version"]


def test_the_credential_is_never_shown(flowctl: Flowctl):
    """Neither by commands nor in the process list."""
    password = flowctl.server["nats_url"].partition(":")[2].rpartition("@")[0].rpartition(":")[2]
    assert len(password) > 20
    for words in (["server", "status"], ["doctor"], ["status"], ["server", "status", "--json"]):
        assert password not in flowctl.run(*words).stdout
    for process in flowctl.processes():
        assert password not in " ".join(process.cmdline())


def test_nothing_that_does_not_exist_is_found(flowctl: Flowctl):
    """A pipeline, a component: refused with exit code 1 and one sentence."""
    for words in (["status", "nope"], ["down", "nope"], ["restart", "nope.a"], ["scale", "nope.a=2"], ["graph", "nope"]):
        assert "nope" in flowctl.run(*words, expect=1).stderr
    assert flowctl.run("logs", "nope").stdout == ""


def test_a_reader_that_has_had_enough_is_no_error(flowctl: Flowctl):
    """`flowctl … | head` says nothing on stderr."""
    for words in ("history", "status --watch --json --every 0.1", "watch --after 0 --json", "schema"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{' '.join(COMMAND)} {words} | head -c 20 > /dev/null"],
            env=flowctl.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_following_ends_with_ctrl_c(flowctl: Flowctl):
    """Exit code 130 and no traceback."""
    watch = flowctl.start("watch", "--after", "0", "--json")
    assert watch.stdout is not None
    assert json.loads(watch.stdout.readline())["seq"] == 1
    watch.send_signal(signal.SIGINT)
    rest, _ = watch.communicate(timeout=20)
    assert watch.returncode == 130
    assert "Traceback" not in rest


def test_a_bad_file_starts_nothing_that_stays(tmp_path: Path):
    """Exit code 2 with the place; a server that was started for it is ended again."""
    with control_plane(tmp_path) as fresh:
        file = fresh.write("bad.yaml", "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {name: bad}\nspec: {sorces: []}\n")
        for words in (["up"], ["up", "--detach"], ["run"]):
            assert "bad.yaml:4:" in fresh.run(*words, str(file), expect=2).stderr
            until(lambda: not fresh.processes(), "the end of what was started")
        assert "there is no such file" in fresh.run("up", "nope.yaml", expect=2).stderr


def test_without_a_server_everything_says_so(tmp_path: Path):
    """Exit code 3 and the way out; doctor exits 1; history of nothing is 3 too, for there is no journal."""
    with control_plane(tmp_path) as nobody:
        for words in (
            ["status"],
            ["hosts"],
            ["history"],
            ["logs", "a"],
            ["watch"],
            ["restart", "a"],
            ["scale", "a.b=1"],
            ["down", "a"],
        ):
            said = nobody.run(*words, expect=3).stderr
            assert "flowctl server" in said
        assert "flowctl server" in nobody.run("doctor", expect=1).stdout
        nobody.run("server", "status", expect=3)
        assert "no server runs" in nobody.run("server", "stop").stderr
        nobody.environment["FLOWCTL_NATS_URL"] = "nats://127.0.0.1:1"
        begun = time.monotonic()
        nobody.run("status", "--timeout", "1", expect=3)
        assert time.monotonic() - begun < 5
        del nobody.environment["FLOWCTL_NATS_URL"]


def test_a_silent_server_times_out(tmp_path: Path):
    """A control plane that is there and does not answer: exit code 4 within the deadline."""
    with control_plane(tmp_path) as stopped:
        stopped.run("server", "--detach")
        pid = stopped.server["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert "did not answer within 1 s" in stopped.run("status", "--timeout", "1", expect=4).stderr
            assert time.monotonic() - begun < 6
        finally:
            os.kill(pid, signal.SIGCONT)


def test_history_is_readable_when_nothing_runs(tmp_path: Path):
    """The journal is opened for as long as it takes, and nothing stays."""
    with control_plane(tmp_path) as once:
        once.run("server", "--detach")
        before = once.history()
        once.run("server", "stop")
        until(lambda: not once.processes(), "the end of the server")
        assert not (once.state / "server.json").exists()
        assert once.history()[: len(before)] == before
        assert not once.processes()


def test_a_taken_default_port_is_no_obstacle_and_a_chosen_one_is(tmp_path: Path):
    """Another program on 8080: any free port, with a warning. A port that was asked for: one clear sentence."""
    with socket.socket() as taken, control_plane(tmp_path) as running:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
        except OSError:
            pass  # somebody else has it, which is the same for us
        else:
            taken.listen()
        del running.environment["FLOWCTL_REGISTRY_LISTEN"]
        running.run("server", "--detach")
        assert not running.server["registry"].endswith(":8080")
        assert "listens on a free one" in running.server_log()
        running.run("server", "stop")
        refused = running.run("server", "--detach", "--registry-listen", "127.0.0.1:8080", expect=3)
        assert "8080" in refused.stderr
        assert "Traceback" not in running.server_log()


def test_a_server_in_the_foreground_ends_cleanly_on_sigterm(tmp_path: Path):
    """Exit code 0, the record and the processes gone; bad settings exit with 2."""
    with control_plane(tmp_path) as running:
        server = running.start("server", "--http-listen", "127.0.0.1:0")
        until((running.state / "server.json").exists, "a server that is ready")
        server.terminate()
        output, _ = server.communicate(timeout=30)
        assert server.returncode == 0, output
        assert not (running.state / "server.json").exists()
        until(lambda: not running.processes(), "the end of NATS")
        assert "http_listen" in running.run("server", "--http-listen", "nonsense", expect=2).stderr
        running.environment["FLOWCTL_SILENCE_S"] = "-1"
        assert "FLOWCTL_SILENCE_S" in running.run("server", expect=2).stderr
        del running.environment["FLOWCTL_SILENCE_S"]


def test_a_state_directory_that_cannot_be_written_is_the_users(tmp_path: Path):
    """One sentence with the directory and the system's reason, from everything that needs it."""
    (tmp_path / "file").write_text("")
    impossible = tmp_path / "file" / "state"
    for attempt in (
        lambda: server_record.ServerLock(impossible),
        lambda: server_record.attached(impossible, timeout_s=1).__enter__(),
        lambda: server_record.write_record(impossible, ServerRecord(pid=1, started="", version="1", nats_url="nats://x")),
        lambda: server_launch.Launch(Session(state_dir=impossible), bound=False),
    ):
        with pytest.raises(InvalidSettingError, match=r"state cannot be written: Not a directory"):
            attempt()


def test_a_record_of_a_dead_server_is_not_believed(tmp_path: Path):
    """The pid may be somebody else's by now: the start time tells them apart."""
    record = ServerRecord(pid=os.getpid(), started="long ago", version="1", nats_url="nats://x")
    server_record.write_record(tmp_path, record)
    assert server_record.read_record(tmp_path) is None
    mine = server_record.process_started(os.getpid())
    assert mine is not None
    server_record.write_record(tmp_path, ServerRecord(pid=os.getpid(), started=mine, version="1", nats_url="nats://x"))
    assert server_record.read_record(tmp_path) is not None
    (tmp_path / "server.json").write_bytes(b"\xff{")
    assert server_record.read_record(tmp_path) is None


def test_a_server_that_ends_by_itself_waits_for_whoever_depends_on_it(tmp_path: Path):
    """While a command is attached nobody can be the last; afterwards nobody can attach any more."""
    with server_record.attached(tmp_path, timeout_s=1):
        assert not server_record.detach_all(tmp_path)
    with server_record.attached(tmp_path, timeout_s=1), server_record.attached(tmp_path, timeout_s=1):
        pass
