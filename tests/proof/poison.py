"""Poison at scale, on the real thing: a pipeline that runs, so many entries that nobody can read, and many restarts on them.

``python -m proof.poison --entries 100000 --restarts 10 --record``. Entries of five kinds, chosen from a seed, are put into the
journal of a running control plane by a stranger; then the control plane is stopped and started again and again. Each start must
come to the same: ready, the pipeline as it was with the same processes, commands taken, and every one of the entries counted.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from flowctl.fleet import MAX_QUARANTINE
from flowctl.journal.embedded import discover
from flowctl.journal.jetstream import JetStreamStore
from support.flowctl import Flowctl, control_plane, until
from support.reliability import write_section
from support.spec_texts import TICKING

SECTION: Final = "Entries that nobody can read"
IN_FLIGHT: Final = 500

KINDS: Final[tuple[tuple[str, dict[str, str], bytes], ...]] = (
    ("flowctl.journal.pipeline.orders.submitted", {}, b"\xff"),
    ("flowctl.journal.pipeline.orders.submitted", {"ce-id": "x", "ce-type": "flowctl.pipeline.submitted.v1"}, b"{" * 500),
    ("flowctl.journal.nonsense", {"ce-id": "x"}, b""),
    ("flowctl.journal.pipeline.orders.scaled", {"ce-id": "x", "ce-type": "flowctl.host.left.v1"}, b"{}"),
    ("flowctl.journal.pipeline.orders.stopped", {"ce-id": "x", "ce-previoushash": "no"}, b"[]"),
)
"""Subject, headers and data: no headers; JSON that does not end; no place in the journal; another's type; a hash that is none."""


def poison(seed: int, count: int) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """So many entries that cannot be read; those that say so are of the pipeline that runs."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.choice(KINDS)


async def put(state: Path, seed: int, count: int) -> None:
    """Publish them into the journal's stream, as any client of the server can."""
    address = discover(state)
    if address is None:
        raise AssertionError("no NATS server runs here")
    store = await JetStreamStore.connect(address.url, name="stranger", monitor_url=address.monitor_url)
    try:
        pending: list[asyncio.Future[Any]] = []
        for subject, headers, data in poison(seed, count):
            pending.append(await store.connection.send(subject, data, headers))
            if len(pending) == IN_FLIGHT:
                await asyncio.gather(*pending)
                pending.clear()
        await asyncio.gather(*pending)
    finally:
        await store.close()


def started(flowctl: Flowctl) -> float:
    """Start the control plane; how many seconds until it answers."""
    begun = time.monotonic()
    flowctl.run("server", "--detach")
    flowctl.run("status", "orders")
    return time.monotonic() - begun


def play(directory: Path, *, seed: int, entries: int, restarts: int) -> list[float]:
    """Do all of it; how long each start took, the one before any poison first.

    Raises:
        AssertionError: something is not as it must be.
    """
    with control_plane(directory) as flowctl:
        flowctl.write("p.yaml", TICKING)
        took = [started_first(flowctl)]
        running = _handles(flowctl)
        asyncio.run(put(flowctl.state / "nats", seed, entries))
        for number in range(restarts):
            flowctl.run("server", "stop")
            took.append(started(flowctl))
            assert _handles(flowctl) == running, "an instance was touched"
            findings = flowctl.json("doctor", expect=1)
            [counted] = [each["detail"] for each in findings if each["check"] == "entries"]
            assert counted.startswith(f"{entries} journal entries cannot be read"), counted
            assert any(each["check"] == "quarantine" for each in findings)
            wanted = 3 - number % 2
            flowctl.run("scale", f"orders.shown={wanted - 1}")
            running = until(lambda n=wanted: _settled(flowctl, n), f"{wanted} instances to run")
        report = flowctl.json("verify")
        assert report["poison"] == entries
        assert all(each["agrees"] for each in report["compared"]), report["compared"]
        return took


def started_first(flowctl: Flowctl) -> float:
    """Start the control plane and the pipeline; how many seconds the control plane took."""
    begun = time.monotonic()
    flowctl.run("server", "--detach")
    took = time.monotonic() - begun
    flowctl.run("up", "p.yaml", "--detach", "--wait")
    return took


def _handles(flowctl: Flowctl) -> dict[str, str]:
    """The running instances and their processes."""
    return {name: each["handle"] for name, each in flowctl.instances("orders").items() if each["phase"] == "running"}


def _settled(flowctl: Flowctl, wanted: int) -> dict[str, str] | None:
    """The running instances and their processes, once there are so many and no other is on its way."""
    phases = {name: each["phase"] for name, each in flowctl.instances("orders").items()}
    running = _handles(flowctl)
    gone = {phase for name, phase in phases.items() if name not in running}
    return running if len(running) == wanted and gone <= {"stopped"} else None


def main() -> int:
    """Play it once."""
    parser = argparse.ArgumentParser(prog="python -m proof.poison")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flowctl-poison-") as directory:
        took = play(Path(directory), seed=chosen.seed, entries=chosen.entries, restarts=chosen.restarts)
    text = (
        f"Seed {chosen.seed}: {chosen.entries:,} entries of five kinds that cannot be read were put into the journal of a control"
        f" plane with a pipeline that ran; then it was stopped and started {chosen.restarts} times. After every start the"
        f" instances were the same processes as before, `scale` was taken and carried out, `doctor` counted all and listed"
        f" the first, of which {MAX_QUARANTINE:,} are kept; in the end `verify` found every service's state as the journal says."
        f"\n\nA start took {took[0]:.1f} s without them, and {min(took[1:]):.1f} to {max(took[1:]):.1f} s with them.\n\n"
        f"Again: `PYTHONPATH=tests python -m proof.poison --seed {chosen.seed} --entries {chosen.entries}"
        f" --restarts {chosen.restarts}`."
    )
    sys.stdout.write(text + "\n")
    if chosen.record:
        write_section(SECTION, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
