"""Subscriptions to the journal without anything of flowctl, in Python and in JavaScript, through kills of everybody."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.subjects import JOURNAL_STREAM
from support.flowctl import Flowctl, control_plane, until

ROOT = Path(__file__).parents[2]
JOURNAL = "flowctl.journal.>"
EXITS = "flowctl.journal.component.*.*.*.exited"

CRASHING = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: crashing}
spec:
  sources:
    - id: falls
      command: [sh, -c, exit 7]
      restart: {max_attempts: 40, window_s: 600, backoff: {initial_s: 0.05, max_s: 0.05}}
  sinks:
    - {id: out, type: console, inputs: [falls]}
"""


def why_not() -> str:
    """Why the JavaScript examples cannot run here; empty if they can."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"there is no {program} on the PATH"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)", version)
    return "" if found and int(found[1]) >= 18 else f"node is {version.strip()} and must be 18 or newer"


WHY_NOT = why_not()
LANGUAGES = [
    "python",
    pytest.param("javascript", marks=pytest.mark.skipif(bool(WHY_NOT), reason=f"no subscriptions in JavaScript: {WHY_NOT}")),
]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Subscriber:
    """One of the example programs, and what it has said so far."""

    def __init__(self, flowctl: Flowctl, program: list[str], said: str, *words: str) -> None:
        self.said = flowctl.directory / f"{said}.out"
        self.noted = flowctl.directory / f"{said}.err"
        url = flowctl.run("server", "status", "--nats-url").stdout.strip()
        with self.said.open("ab") as out, self.noted.open("wb") as err:
            self.process = subprocess.Popen(
                [*program, *words],
                env={**os.environ, "NATS_URL": url},
                cwd=flowctl.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.said)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


class Story:
    """What every program of both languages wrote while it was killed and the server was restarted; and the journal itself."""

    def __init__(self, flowctl: Flowctl, folders: dict[str, tuple[str, Path, str]]) -> None:
        self.flowctl = flowctl
        self.folders = folders
        self.running: dict[tuple[str, str], Subscriber] = {}
        self.journal: list[dict[str, Any]] = []

    def start(self, what: str, *words: str) -> None:
        """Start that program in every language."""
        for language, (interpreter, folder, suffix) in self.folders.items():
            own = [word.format(language=language) for word in words]
            program = [interpreter, str(folder / f"{what}{suffix}")]
            self.running[language, what] = Subscriber(self.flowctl, program, f"{what}-{language}", *own)

    def every(self, what: str) -> list[Subscriber]:
        """That program in every language."""
        return [each for (_, name), each in self.running.items() if name == what]

    def audit(self, language: str) -> Path:
        """What the durable consumer writes."""
        return self.flowctl.directory / f"{language}.jsonl"

    def play(self) -> None:
        """Entries arrive all the while: a component crashes and is started anew."""
        flowctl = self.flowctl
        self.start("plain", EXITS)
        until(lambda: all("listening" in each.noted.read_text() for each in self.every("plain")), "the plain subscriptions")
        flowctl.run("up", "crashing.yaml", "--detach")
        audit = ("audit-{language}", "{language}.jsonl", JOURNAL)
        self.start("durable", *audit)
        for more in (10, 30, 50):
            until(lambda more=more: all(len(rows_of(self.audit(each))) > more for each in self.folders), f"{more} entries")
            for each in self.every("durable"):
                each.kill()
            for language in self.folders:
                with self.audit(language).open("ab") as file:
                    file.write(b'{"seq": 9999, "type": "half a li')  # as a crash in the middle of a write leaves it
            if more == 50:
                asyncio.run(self.forget())
            self.start("durable", *audit)
        self.start("follow", JOURNAL)
        until(lambda: all('"complete"' in each.said.read_text() for each in self.every("follow")), "the snapshots")
        flowctl.run("server", "stop")
        flowctl.run("server", "--detach")
        flowctl.run("up", "again.yaml", "--detach")
        flowctl.run("down", "--all")
        self.journal = flowctl.history()
        last = self.journal[-1]["seq"]
        until(lambda: all(len(rows_of(self.audit(each))) >= last for each in self.folders), "every entry in the files")
        until(lambda: all(each.rows()[-1]["seq"] >= last for each in self.every("follow")), "the end of the journal")

    async def forget(self) -> None:
        """Delete the durable consumers: the server then sends everything again, also what was written and acknowledged."""
        store = await JetStreamStore.connect(self.flowctl.server["nats_url"], name="test", assume_synced=True, create=False)
        for language in self.folders:
            await store.connection.api(f"CONSUMER.DELETE.{JOURNAL_STREAM}.audit-{language}", None, dict[str, Any])
        await store.close()

    def end(self) -> None:
        """Kill whoever is left."""
        for each in self.running.values():
            each.kill()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """All programs at once on one control plane, because each restart takes its time."""
    folders = {"python": (sys.executable, ROOT / "examples/subscribe/python", ".py")}
    if not WHY_NOT:
        copy = tmp_path_factory.mktemp("subscribe") / "javascript"
        shutil.copytree(ROOT / "examples/subscribe/javascript", copy, ignore=shutil.ignore_patterns("node_modules"))
        done = subprocess.run(["npm", "ci"], cwd=copy, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        folders["javascript"] = ("node", copy, ".js")
    with control_plane(tmp_path_factory.mktemp("plane")) as flowctl:
        flowctl.run("server", "--detach")
        flowctl.write("crashing.yaml", CRASHING)
        flowctl.write("again.yaml", CRASHING.replace("crashing", "again"))
        told = Story(flowctl, folders)
        try:
            told.play()
            yield told
        finally:
            told.end()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_plain_subscription_hears_events_as_they_happen(story: Story, language: str):
    """From the moment on which it listens, every exit, with its CloudEvents headers."""
    rows = story.running[language, "plain"].rows()
    assert len(rows) >= 5
    for row in rows:
        assert row["type"] == "flowctl.component.exited.v1"
        assert re.fullmatch(r"(crashing|again)\.(falls|out)\.0", row["of"])
    assert 7 in {row["data"].get("code") for row in rows}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_durable_consumer_has_every_entry_once(story: Story, language: str):
    """Killed three times while entries arrive, sent everything again once, the server restarted: its file is the journal."""
    found = rows_of(story.audit(language))
    assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
    same = [(row["seq"], row["id"], row["data"]) for row in story.journal]
    assert [(row["seq"], row["id"], row["data"]) for row in found[: len(same)]] == same


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_snapshot_then_every_change(story: Story, language: str):
    """First the last entry of each subject, then everything after it in order, through a restart of the server."""
    rows = story.running[language, "follow"].rows()
    at = next(number for number, row in enumerate(rows) if row["phase"] == "complete")
    end, snapshot, changes = rows[at]["seq"], rows[:at], rows[at + 1 :]
    last = {row["subject"]: row["seq"] for row in story.journal if row["seq"] <= end}
    assert {row["subject"]: row["seq"] for row in snapshot} == last
    assert changes
    assert [row["seq"] for row in changes] == list(range(end + 1, rows[-1]["seq"] + 1))


def test_the_lock_file_names_no_place_to_download_from():
    """npm takes the packages from whatever registry it is set up for, and checks them by hash."""
    text = (ROOT / "examples/subscribe/javascript/package-lock.json").read_text()
    assert '"resolved"' not in text
    assert text.count('"integrity"') == text.count('"node_modules/')
