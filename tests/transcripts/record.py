"""``python -m transcripts.record DIRECTORY``: makes the recordings of this folder with the real system, minutes of real time.

Each is a control plane of its own to which one thing happens; what it wrote is exported as ``flowctl replay`` reads it. The
settings that it ran with stand beside it, for the journal does not hold them.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from flowctl.journal import subjects
from flowctl.journal.bundle import BundleWriter
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.jetstream.reader import Position, StreamReader
from flowctl.journal.jetstream.streams import stream_info
from flowctl.journal.log import Record
from support.flowctl import COMMAND, Flowctl, control_plane, until
from support.pipelines import PROGRAMS

PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: orders}
spec:
  sources:
    - {id: numbers, command: [python, count.py], config: {count: 1000000000, rate: 50}}
  processors:
    - {id: double, command: [python, double.py], inputs: [numbers]}
  sinks:
    - {id: keep, command: [python, keep.py], inputs: [double], config: {path: out.jsonl}}
"""
SETTINGS = {"silence_s": "6", "host_silence_s": "8"}


def crash(flowctl: Flowctl) -> None:
    """A processor is killed twice and started again each time, later after the second; then the pipeline is stopped."""
    for incarnation in (1, 2):
        pid = int(flowctl.instances()["orders.double.0"]["handle"])
        _kill(pid, signal.SIGKILL)
        until(lambda before=incarnation: _is_well(flowctl, "orders.double.0", before + 1), "the restart")
    flowctl.run("down", "orders")


def silence(flowctl: Flowctl) -> None:
    """A sink stands still for longer than it may, and goes on."""
    pid = int(flowctl.instances()["orders.keep.0"]["handle"])
    _kill(pid, signal.SIGSTOP)
    until(lambda: flowctl.instances()["orders.keep.0"]["status"] == "unhealthy", "the silence to be seen", timeout_s=30)
    _kill(pid, signal.SIGCONT)
    until(lambda: _is_well(flowctl, "orders.keep.0", 1), "its heartbeats", timeout_s=30)
    flowctl.run("down", "orders")


def host_lost(flowctl: Flowctl) -> None:
    """The agent of the second host stands still; what ran there is started on the first one; then the host is back."""
    pid = int(flowctl.children[-1].pid)
    flowctl.run("scale", "orders.double=2")
    until(lambda: _is_well(flowctl, "orders.double.1", 1), "a second instance", timeout_s=30)
    assert any(each["runs_on"] == "h2" for each in flowctl.instances().values())
    _kill(pid, signal.SIGSTOP)
    until(lambda: all(each["runs_on"] == "h1" for each in flowctl.instances().values()), "the move", timeout_s=40)
    until(lambda: all(each["status"] == "healthy" for each in flowctl.instances().values()), "the new ones", timeout_s=40)
    _kill(pid, signal.SIGCONT)
    until(lambda: all(host["status"] == "up" for host in flowctl.json("hosts")), "the host", timeout_s=30)
    flowctl.run("down", "orders")


STORIES: dict[str, Callable[[Flowctl], None]] = {"crash": crash, "silence": silence, "host-lost": host_lost}


def record(name: str, directory: Path) -> None:
    """Make one recording."""
    with tempfile.TemporaryDirectory() as place, control_plane(Path(place), name="h1", **SETTINGS) as flowctl:
        flowctl.run("server", "--detach")
        if name == "host-lost":
            second_host(flowctl)
        for program in ("count", "double", "keep"):
            shutil.copy(PROGRAMS / f"{program}.py", place)
        flowctl.run("up", "--detach", "--wait", str(flowctl.write("orders.yaml", PIPELINE)))
        STORIES[name](flowctl)
        asyncio.run(export(flowctl.server["nats_url"], directory / f"{name}.zip"))
    (directory / f"{name}.json").write_text(json.dumps({key: float(value) for key, value in SETTINGS.items()}) + "\n")


def second_host(flowctl: Flowctl) -> None:
    """An agent with a state directory of its own joins as ``h2``."""
    server = flowctl.server
    environment = {
        **flowctl.environment,
        "FLOWCTL_STATE_DIR": str(flowctl.state / "h2"),
        "FLOWCTL_NATS_MONITOR_URL": server["nats_monitor_url"],
        "FLOWCTL_HOST_HEARTBEAT_S": "1",
    }
    before, flowctl.environment = flowctl.environment, environment
    words = ["agent", "--nats", server["nats_url"], "--name", "h2", "--registry", server["registry"]]
    flowctl.start(*words, program=COMMAND)
    flowctl.environment = before
    until(lambda: any(host["name"] == "h2" and host["status"] == "up" for host in flowctl.json("hosts")), "h2 to join")


async def export(url: str, path: Path) -> None:
    """All entries and heartbeats of a server."""
    store = await JetStreamStore.connect(url, name="transcripts", create=False, assume_synced=True)
    try:
        with path.open("wb") as file:
            writer = BundleWriter(file, made_by="tests/transcripts/record.py")
            for stream, add in ((subjects.JOURNAL_STREAM, writer.add), (subjects.HEARTBEAT_STREAM, writer.add_heartbeat)):
                reader = StreamReader(store.connection, stream, subject=None, contiguous=stream == subjects.JOURNAL_STREAM)
                last = (await stream_info(store.connection, stream)).state.last_seq
                async for raws in reader.batches(Position(after=0), follow=False, upto=last):
                    for raw in raws:
                        add(Record(raw.seq, raw.time_ns, raw.subject, raw.headers or {}, raw.data))
            writer.close()
    finally:
        await store.close()


def _is_well(flowctl: Flowctl, name: str, incarnation: int) -> bool:
    each = flowctl.instances()[name]
    return each["incarnation"] >= incarnation and each["status"] == "healthy" and each["phase"] == "running"


def _kill(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)


if __name__ == "__main__":
    for each in sys.argv[2:] or STORIES:
        record(each, Path(sys.argv[1]))
