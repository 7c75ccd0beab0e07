"""How many events a second go through three processes, and what each costs: flowctl, its shapes, plain gRPC, a broker.

Every case runs ``--runs`` times in turn with the others, so that a machine that changes its mind changes it for all; figures are
medians, ratios are of one run and then their median. Events are counted as they reach a sink (an event that goes to three sinks
counts three times), 200 bytes unless the case says otherwise, and a Python function is called for each. ``cpu_us`` is the
processor time of all processes for one of them; memory (PSS) is in the table. ``linear_again`` is ``linear`` once more: its ratio
to ``linear`` (``noise_ratio``) shows how much of a difference is none.

Piece by piece, where the machine cannot be had for long: ``--only linear linear_unacked --runs 1 --keep FILE`` as often as
wanted, then ``--report FILE``. Ratios compare runs of one call, so name together what is to be compared.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from chain import Node, Sample, Shape, run_broker, run_flowctl, run_plain
from harness import state
from report import keep, keepable, kept, median, parser, progress, publish

Case = Callable[..., Sample]


def linear(role: str = "def", size: int = 200, flags: tuple[str, ...] = ()) -> Shape:
    """Source, processor, sink."""
    nodes = [Node("source", "source"), Node("processor", role, ["source"]), Node("sink", "sink", ["processor"])]
    return Shape(nodes, size, flags=flags)


SHAPES: dict[str, Shape] = {
    "linear": linear(),
    "linear_again": linear(),
    "linear_unacked": linear(flags=("--unacked",)),
    "async_def": linear("async"),
    "batch_def": linear("list"),
    "batch_async_def": linear("async-list"),
    "fan_out_3": Shape(
        [
            Node("source", "source"),
            Node("processor", "def", ["source"]),
            *(Node(name, "sink", ["processor"]) for name in ("first", "second", "third")),
        ]
    ),
    "fan_in_2": Shape(
        [
            Node("left", "source"),
            Node("right", "source"),
            Node("processor", "def", ["left", "right"]),
            Node("sink", "sink", ["processor"]),
        ]
    ),
    "diamond": Shape(
        [
            Node("source", "source"),
            Node("left", "def", ["source"]),
            Node("right", "def", ["source"]),
            Node("sink", "sink", ["left", "right"]),
        ]
    ),
    "replicas_4_by_key": Shape(
        [
            Node("source", "source"),
            Node("processor", "def", ["source"], replicas=4, partition_by="payload"),
            Node("sink", "sink", ["processor"]),
        ],
        kinds=64,
    ),
    "events_1kb": linear(size=1_000),
    "events_10kb": linear(size=10_000),
    "events_1mb": linear(size=1_000_000),
}
OTHERS: dict[str, Case] = {
    "plain_grpc": partial(run_plain, size=200, events=512),
    "plain_grpc_single": partial(run_plain, size=200, events=1),
    "broker_memory": partial(run_broker, storage="memory", synced=False, size=200, events=512),
    "broker": partial(run_broker, storage="file", synced=False, size=200, events=512),
    "broker_fsync": partial(run_broker, storage="file", synced=True, size=200, events=512),
}
RATIOS = {
    "noise_ratio": "linear_again",
    "ack_ratio": "linear_unacked",
    "plain_grpc_ratio": "plain_grpc",
    "plain_grpc_single_ratio": "plain_grpc_single",
    "broker_ratio": "broker",
    "broker_memory_ratio": "broker_memory",
    "broker_fsync_ratio": "broker_fsync",
}
TARGETS = {"linear_events_per_s": "≥ 800,000", "ack_ratio": "≥ 0.8"}


def cases(directory: Path) -> dict[str, Case]:
    """Everything that can be run; those that are compared with each other stand side by side."""
    ours: dict[str, Case] = {name: partial(run_flowctl, directory, shape) for name, shape in SHAPES.items()}
    compared = ["linear", "linear_again", "linear_unacked"]
    return {**{name: ours.pop(name) for name in compared}, **OTHERS, **ours}


Turn = dict[str, Sample]
"""What one run of some cases, one right after the other, showed of each."""


def run(names: list[str], runs: int, warm_up_s: float, seconds: float, file: Path | None) -> list[Turn]:
    """Every case in turn, so many times."""
    turns: list[Turn] = []
    with state() as directory:
        available = cases(directory)
        for number in range(runs):
            turn: Turn = {}
            for name in names:
                turn[name] = sample = available[name](warm_up_s=warm_up_s, seconds=seconds)
                progress(f"run {number + 1}/{runs}: {name}: {sample.events_per_s:,.0f}/s, {sample.total_cpu_us:.2f} µs each")
            keep(file, {name: sample._asdict() for name, sample in turn.items()})
            turns.append(turn)
    return turns


def figures(turns: list[Turn]) -> dict[str, float]:
    """Rates, ratios, bytes and processor time."""
    result: dict[str, float] = {}
    samples = by_case(turns)
    if "linear" in samples:
        result["linear_events_per_s"] = median([sample.events_per_s for sample in samples["linear"]])
    for ratio, other in RATIOS.items():
        both = [turn for turn in turns if "linear" in turn and other in turn]
        if both:
            result[ratio] = median([turn["linear"].events_per_s / turn[other].events_per_s for turn in both])
    for name, each in samples.items():
        result[f"{name}_events_per_s"] = median([sample.events_per_s for sample in each])
        result[f"{name}_cpu_us"] = median([sample.total_cpu_us for sample in each])
        result[f"{name}_memory_mb"] = median([max(sample.memory_mb.values()) for sample in each])
        if name.startswith("events_"):
            result[f"{name}_mb_per_s"] = median([sample.bytes_per_s for sample in each]) / 1e6
    return result


def by_case(turns: list[Turn]) -> dict[str, list[Sample]]:
    """The samples of each case, in the order of the table."""
    return {name: found for name in cases(Path()) if (found := [turn[name] for turn in turns if name in turn])}


def processes(samples: dict[str, list[Sample]]) -> list[str]:
    """One line a case: the processor time for an event, and the memory, of each process."""
    lines = ["", "processor time (µs for an event) and memory (MB) of each process:"]
    for name, each in samples.items():
        parts = [
            f"{process} {median([sample.cpu_us[process] for sample in each]):.2f} µs {each[-1].memory_mb[process]:.0f} MB"
            for process in sorted(each[-1].cpu_us)
        ]
        lines.append(f"  {name}: " + ", ".join(parts))
    return lines


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--seconds", type=float, default=20.0, help="how long each run is looked at")
    options.add_argument("--warm-up", type=float, default=3.0, help="seconds at the start of each run that do not count")
    options.add_argument("--quick", action="store_true", help="one run of 4 seconds each, for development")
    options.add_argument("--only", nargs="+", choices=[*SHAPES, *OTHERS], help="these cases only")
    keepable(options)
    chosen = options.parse_args()
    runs, seconds, warm_up_s = (1, 4.0, 1.5) if chosen.quick else (chosen.runs, chosen.seconds, chosen.warm_up)
    names = [name for name in cases(Path()) if not chosen.only or name in chosen.only]
    if chosen.report:
        turns = [{name: Sample(**sample) for name, sample in turn.items()} for turn in kept(chosen.report)]
    else:
        turns = run(names, runs, warm_up_s, seconds, chosen.keep)
    if not turns:
        raise SystemExit(f"there are no runs in {chosen.report}")
    publish("throughput", figures(turns), as_json=chosen.json, targets=TARGETS, notes=processes(by_case(turns)))


if __name__ == "__main__":
    main()
