"""`flowctl verify`, `flowctl journal export` and `import` as a user runs them; a journal that went backwards is refused."""

import asyncio
import shutil
from pathlib import Path

import pytest

from flowctl.ids import InstanceId
from flowctl.image import pieces
from flowctl.journal.blocks import journal_dir
from flowctl.journal.embedded import discover
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.subjects import SNAPSHOT_STREAM
from flowctl.past import fleet_at
from flowctl.snapshotting import taken
from flowctl_agent.drivers import RunKey
from support.agents import launch, process_driver
from support.flowctl import Flowctl, control_plane
from support.spec_texts import TICKING


def test_a_life_is_verified_exported_imported_and_defended(tmp_path: Path):
    """Live state, drivers, file, import and the stopped store agree; what was changed or cut off is named and refused."""
    with control_plane(tmp_path) as flowctl:
        flowctl.write("p.yaml", TICKING)
        flowctl.run("server", "--detach")
        flowctl.run("up", "p.yaml", "--detach", "--wait")
        report = flowctl.json("verify")
        assert report["differences_total"] == 0, report
        told = {each["what"].split()[0] for each in report["compared"]}
        assert told == {"registry", "health", "orchestrator", "agent", "the"}
        flowctl.run("verify", "--anchor", report["anchor"])
        forged = report["anchor"][:-4] + ("0000" if not report["anchor"].endswith("0000") else "1111")
        assert "not the one that the anchor was taken of" in flowctl.run("verify", "--anchor", forged, expect=1).stdout
        flowctl.run("verify", "--anchor", "nonsense", expect=2)
        asyncio.run(_a_stranger(flowctl))
        asyncio.run(_damaged_snapshots(flowctl))

        exported = flowctl.json("journal", "export", "all.zip", "--heartbeats")
        assert exported["heartbeats"] > 0
        flowctl.run("journal", "export", "all.zip", expect=2)
        assert flowctl.json("verify", "all.zip")["anchor"] == f"{exported['last_seq']}:{exported['digest']}"
        flowctl.run("journal", "import", "all.zip", expect=1)  # a server runs here
        flowctl.run("server", "stop", "--pipelines")

        done = flowctl.json("journal", "import", "all.zip", "--state-dir", str(tmp_path / "other"))
        assert (done["entries"], done["stored"], done["digest"]) == (
            exported["last_seq"],
            exported["last_seq"],
            exported["digest"],
        )
        offline = flowctl.json("verify", "--offline")
        assert (offline["differences_total"], offline["last_seq"] >= exported["last_seq"]) == (0, True)
        assert flowctl.json("verify", "--offline", "--state-dir", str(tmp_path / "other"))["state"]
        _cut_the_end_off(flowctl)


async def _a_stranger(flowctl: Flowctl) -> None:
    """A program that somebody starts on the host behind the journal's back is named, until it is gone."""
    driver = process_driver(flowctl.state)
    try:  # not opened: it adopts nothing of the agent's
        stranger = launch(["sleep", "600"], RunKey(InstanceId.parse("orders.stranger.0"), 1))
        run = await driver.start(stranger)
        report = (await asyncio.to_thread(flowctl.run, "verify", expect=1)).stdout
        assert f"runs orders.stranger.0 (incarnation 1, {run.handle}), and the journal does not know of it" in report
        await driver.stop(stranger.key, 5)
    finally:
        await driver.close()
    await asyncio.to_thread(flowctl.run, "verify")


async def _damaged_snapshots(flowctl: Flowctl) -> None:
    """A snapshot is compared with the fold at its entry: a true one agrees; another state, and a broken one, are named."""
    server = discover(flowctl.state / "nats")
    assert server is not None
    store = await JetStreamStore.connect(server.url, name="test", monitor_url=server.monitor_url)
    try:
        before, fleet = await fleet_at(store, 9), await fleet_at(store, 10)
        entry = await store.journal.entry(10)
        await store.snapshots.put(taken(fleet, entry.hash, b"".join(pieces(fleet))))
        report = await asyncio.to_thread(flowctl.json, "verify")
        assert {"what": "the snapshot at entry 10", "seq": 10, "agrees": True} in report["compared"]
        await store.snapshots.put(taken(fleet, entry.hash, b"".join(pieces(before))))
        other = taken(await fleet_at(store, 8), (await store.journal.entry(8)).hash, b"nonsense")
        await store.snapshots.put(other)
        shown = (await asyncio.to_thread(flowctl.run, "verify", expect=1)).stdout
        assert "the snapshot at entry 10 holds another state than the journal says" in shown
        assert "the snapshot at entry 8 is damaged" in shown
        assert "the snapshot at entry 10 agrees at entry 10" in shown
        await store.nc.jetstream().purge_stream(SNAPSHOT_STREAM)
    finally:
        await store.close()


def _cut_the_end_off(flowctl: Flowctl) -> None:
    """The store loses its last half: `verify` names where, and no server starts on it until somebody accepts it."""
    directory = journal_dir(flowctl.state / "nats")
    block = max(directory.glob("*.blk"), key=lambda path: int(path.stem))
    block.write_bytes(block.read_bytes()[: block.stat().st_size // 2])
    for index in (directory / "index.db", directory.parent / "index.db"):
        index.unlink(missing_ok=True)
    report = flowctl.run("verify", "--offline", expect=1).stdout
    assert "DIFFERENCE (end)" in report
    started = flowctl.start("server")
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 1, output
    assert "entries are gone" in output
    (flowctl.state / "seen.json").unlink()
    flowctl.run("server", "--detach")
    flowctl.run("server", "stop", "--pipelines")


@pytest.mark.parametrize("words", [("verify", "none.zip"), ("journal", "import", "none.zip")])
def test_what_is_no_file_is_bad_input(tmp_path: Path, words: tuple[str, ...]):
    """One sentence and exit code 2."""
    with control_plane(tmp_path) as flowctl:
        assert "none.zip: it cannot be read" in flowctl.run(*words, expect=2).stderr
        shutil.copy(__file__, tmp_path / "none.zip")
        assert "no whole ZIP archive" in flowctl.run(*words, expect=2).stderr
