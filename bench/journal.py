"""Speed at scale: a journal of many entries read from its beginning, from a snapshot, and at any moment of its past.

For each size a store is filled once with a realistic past (``history.py``: 1,000 entries a pipeline of ten instances) and kept in
``--dir`` for the next run. ``rebuild_s`` and ``rebuild_mb`` are those of a process that folds everything with no snapshot: all
services fold the same state, so a process of all of them folds once; ``rebuild_cpu_s`` is its processor time. ``snapshot_tail_s``
is the same start 10,000 entries after a snapshot. ``status_at_s`` is the whole command ``flowctl status --at``, the slowest of
three places. ``verify_s`` is the whole command ``flowctl verify``; ``diff_s`` and ``report_s`` are ``flowctl diff`` and ``flowctl
report availability`` over the last tenth of the journal.
"""

import asyncio
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from flowctl import image
from flowctl.fleet import Fleet
from flowctl.journal.embedded import EmbeddedNats
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.snapshots import EVERY
from flowctl.paths import nats_dir
from flowctl.projection import Projection
from flowctl.snapshotting import nearest, taken
from harness import FLOWCTL, environment
from history import History
from report import Figures, parser, progress, publish

BATCH = 500
IN_FLIGHT = 4
TAIL = 10_000


async def fill(store: JetStreamStore, count: int) -> None:
    """Append what is missing, in atomic batches."""
    connection = store.connection
    links = itertools.islice(History().links(), await store.journal.last_sequence(), count)
    pending: list[asyncio.Future[object]] = []
    while batch := list(itertools.islice(links, BATCH)):
        batch_id = uuid.uuid4().hex
        for at, link in enumerate(batch, 1):
            headers = {**link.stored.headers, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(at)}
            if at < len(batch):
                await connection.publish(link.stored.subject, link.stored.data, headers)
            else:
                future = await connection.send(link.stored.subject, link.stored.data, {**headers, "Nats-Batch-Commit": "1"})
                pending.append(future)  # type: ignore[arg-type]
        if len(pending) >= IN_FLIGHT:
            await pending.pop(0)
    await asyncio.gather(*pending)
    if await store.journal.last_sequence() < count:
        raise SystemExit("the server refused a batch")


async def snapshots(store: JetStreamStore, upto: int) -> None:
    """Take all snapshots that are missing, as an orchestrator does."""
    fleet = await nearest(store.journal, store.snapshots, upto=upto) or Fleet()
    async for entry in store.journal.read(after=fleet.seq, upto=upto):
        fleet.fold(entry)
        if entry.seq % EVERY == 0:
            await store.snapshots.put(taken(fleet, entry.hash, b"".join(image.pieces(image.frozen(fleet)))))


async def connect(url: str) -> JetStreamStore:
    return await JetStreamStore.connect(url, name="bench", assume_synced=True, request_timeout_s=60)


async def start(url: str, *, with_snapshots: bool) -> None:
    """The start of a process: what it folds is in its memory; prints the figures as JSON."""
    store = await connect(url)
    begun, before = time.monotonic(), time.process_time()
    projection = Projection(store.journal, snapshots=store.snapshots if with_snapshots else None)
    task = await projection.start()
    figures = {
        "s": time.monotonic() - begun,
        "cpu_s": time.process_time() - before,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seq": projection.fleet.seq,
        "digest": projection.fleet.digest(),
    }
    task.cancel()
    await store.close()
    print(json.dumps(figures))


def started(url: str, how: str) -> dict[str, float | str]:
    """The figures of a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--start", how, url], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def command_s(state_dir: Path, *words: str) -> float:
    """How long a command takes."""
    begun = time.monotonic()
    done = subprocess.run([*FLOWCTL, *words], env=environment(state_dir), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"flowctl {' '.join(words)} exited {done.returncode}: {done.stderr}")
    return time.monotonic() - begun


async def prepare(directory: Path, count: int) -> EmbeddedNats:
    """A running server that holds ``count`` entries and all snapshots but that of the last ``TAIL``."""
    nats = EmbeddedNats(nats_dir(directory))
    await nats.start()
    store = await connect(nats.url)
    progress(f"filling {count:,} entries")
    await fill(store, count)
    progress("taking snapshots")
    await snapshots(store, count - TAIL)
    await store.close()
    return nats


async def measure(directory: Path, count: int, *, only_fill: bool) -> Figures:
    """The figures of one size."""
    nats = await prepare(directory, count)
    try:
        if only_fill:
            return {}
        whole = started(nats.url, "whole")
        tail = started(nats.url, "snapshot")
        if whole["digest"] != tail["digest"]:
            raise SystemExit("the state with a snapshot is not the state without")
        places = (1, count // 3 + EVERY // 2, count - 1)
        status = [await asyncio.to_thread(command_s, directory, "status", "--json", "--at", str(place)) for place in places]
        return {
            "rebuild_s": float(whole["s"]),
            "rebuild_cpu_s": float(whole["cpu_s"]),
            "rebuild_mb": float(whole["mb"]),
            "snapshot_tail_s": float(tail["s"]),
            "status_at_s": max(status),
            "verify_s": await asyncio.to_thread(command_s, directory, "verify"),
            "diff_s": await asyncio.to_thread(command_s, directory, "diff", str(count - count // 10), "now"),
            "report_s": await asyncio.to_thread(
                command_s, directory, "report", "availability", "--from", str(count - count // 10)
            ),
        }
    finally:
        await nats.stop(adopted=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--dir", type=Path, help="where the filled stores are kept for the next run")
    options.add_argument("--fill", action="store_true", help="only fill the stores")
    options.add_argument("--start", nargs=2, metavar=("HOW", "URL"), help="internal: one start, as a process of its own")
    chosen = options.parse_args()
    if chosen.start:
        asyncio.run(start(chosen.start[1], with_snapshots=chosen.start[0] == "snapshot"))
        return
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="flowctl-bench-") as temporary:
        for count in chosen.entries:
            directory = (chosen.dir or Path(temporary)) / str(count)
            directory.mkdir(parents=True, exist_ok=True)
            found = asyncio.run(measure(directory, count, only_fill=chosen.fill))
            figures |= {f"{name}_{count}": value for name, value in found.items()}
    if figures:
        targets = {
            "rebuild_s_1000000": "at most 60",
            "rebuild_mb_1000000": "at most 512",
            "snapshot_tail_s_1000000": "at most 2",
            "status_at_s_1000000": "at most 2",
            "verify_s_1000000": "at most 60",
        }
        publish("journal", figures, as_json=chosen.json, targets=targets)


if __name__ == "__main__":
    main()
