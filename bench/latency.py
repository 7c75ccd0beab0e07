"""How old an event is when it reaches the sink, over two hops (source, processor, sink: three processes) at a given rate.

The source sends a burst every millisecond, on a schedule that nothing holds up, and stamps each event with the moment at which
it was due. ``p50_ms_10k`` is the median at 10,000 events a second; ``idle_p50_ms`` that of a single event every 50 ms, and
``idle_plain_p50_ms`` the same over plain gRPC with no bookkeeping (``programs/plain.py``), the least that two hops take. The
first ``--warm-up`` seconds do not count; figures are medians of ``--runs`` runs, taken in turn.

Piece by piece, where the machine cannot be had for long: ``--only idle --runs 1 --keep FILE`` as often as wanted, then
``--report FILE``.
"""

import json
import sys
import tempfile
import time
from array import array
from collections.abc import Generator
from pathlib import Path
from typing import Any

from chain import plain
from harness import PROGRAMS, flowctl, state
from report import keep, keepable, kept, median, parser, percentile, progress, publish

IDLE_MS = 50
LOADS: dict[str, dict[str, Any]] = {
    "10k": {"rate": 10_000},
    "50k": {"rate": 50_000},
    "100k": {"rate": 100_000},
    "200k": {"rate": 200_000},
    "idle": {"every_ms": IDLE_MS},
    "idle_plain": {"every_ms": IDLE_MS},
}
TARGETS = {"p50_ms_10k": "≤ 1", "p99_ms_10k": "≤ 3", "p99_ms_100k": "≤ 10", "idle_p50_ms": "≤ 1"}


def spec(load: dict[str, Any], path: Path) -> str:
    """The pipeline file (JSON is YAML)."""

    def component(role: str, **more: object) -> dict[str, object]:
        return {"id": role, "command": [sys.executable, str(PROGRAMS / "paced.py"), role], **more}

    return json.dumps(
        {
            "apiVersion": "flowctl/v1",
            "kind": "Pipeline",
            "metadata": {"name": "paced"},
            "spec": {
                "sources": [component("source", config=load)],
                "processors": [component("processor", inputs=["source"])],
                "sinks": [component("sink", inputs=["processor"], config={"path": str(path)})],
            },
        }
    )


def flowctl_ages_ms(directory: Path, load: dict[str, Any], warm_up_s: float, seconds: float) -> list[float]:
    """The ages of all events of one run of a pipeline after the warm-up."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        path, file = Path(place) / "ages", Path(place) / "paced.yaml"
        file.write_text(spec(load, path))
        flowctl(directory, "up", "--detach", str(file))
        try:
            return ages_ms(path, warm_up_s, seconds)
        finally:
            flowctl(directory, "down", "paced", "--timeout", "20")


def plain_ages_ms(directory: Path, load: dict[str, Any], warm_up_s: float, seconds: float) -> list[float]:
    """The same of three processes over plain gRPC."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        path = Path(place) / "ages"
        with plain(["--every-ms", str(load["every_ms"])], ["--ages", str(path)]):
            return ages_ms(path, warm_up_s, seconds)


def ages_ms(path: Path, warm_up_s: float, seconds: float) -> list[float]:
    """What a sink writes to its file of ages from after the warm-up on."""
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        if time.monotonic() > deadline:
            raise SystemExit("no event reached the sink within 60 s")
        time.sleep(0.02)
    time.sleep(warm_up_s)
    first = path.stat().st_size // 4
    time.sleep(seconds)
    last = path.stat().st_size // 4
    ages = array("I")
    with path.open("rb") as written:
        written.seek(first * 4)
        ages.frombytes(written.read((last - first) * 4))
    if not ages:
        raise SystemExit("nothing reached the sink after the warm-up")
    return [age / 1_000 for age in ages]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--seconds", type=float, default=20.0, help="how long each run is looked at")
    options.add_argument("--warm-up", type=float, default=3.0, help="seconds at the start of each run that do not count")
    options.add_argument("--quick", action="store_true", help="one run of 5 seconds each, for development")
    options.add_argument("--only", nargs="+", choices=list(LOADS), help="these loads only")
    keepable(options)
    chosen = options.parse_args()
    runs, seconds, warm_up_s = (1, 5.0, 1.0) if chosen.quick else (chosen.runs, chosen.seconds, chosen.warm_up)
    found: dict[str, list[float]] = {}
    for run in (
        kept(chosen.report) if chosen.report else measured(chosen.only or list(LOADS), runs, seconds, warm_up_s, chosen.keep)
    ):
        name = run["load"]
        for share, age in run["ages_ms"].items():
            found.setdefault(f"{name}_{share}_ms" if name.startswith("idle") else f"{share}_ms_{name}", []).append(age)
    if not found:
        raise SystemExit(f"there are no runs in {chosen.report}")
    publish("latency", {name: median(ages) for name, ages in found.items()}, as_json=chosen.json, targets=TARGETS)


def measured(loads: list[str], runs: int, seconds: float, warm_up_s: float, file: Path | None) -> Generator[dict[str, Any]]:
    """What each run shows, as it is kept."""
    with state() as directory:
        for number in range(runs):
            for name in loads:
                measure = plain_ages_ms if name == "idle_plain" else flowctl_ages_ms
                ages = measure(directory, LOADS[name], warm_up_s, seconds)
                shares = {"p50": percentile(ages, 0.5), "p99": percentile(ages, 0.99), "p999": percentile(ages, 0.999)}
                told = ", ".join(f"{share} {age:.2f} ms" for share, age in shares.items())
                progress(f"run {number + 1}/{runs}: {name}: {told} of {len(ages):,} events")
                run = {"load": name, "ages_ms": shares, "events": len(ages)}
                keep(file, run)
                yield run


if __name__ == "__main__":
    main()
