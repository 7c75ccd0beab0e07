"""Pipeline files for tests, made of the programs in ``support/programs``."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

PROGRAMS = Path(__file__).parent / "programs"


def component(
    component_id: str, program: str, *inputs: str, config: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """A component that runs ``support/programs/<program>.py``."""
    return {
        "id": component_id,
        "command": [sys.executable, str(PROGRAMS / f"{program}.py")],
        **({"inputs": list(inputs)} if inputs else {}),
        **({"config": config} if config else {}),
        **fields,
    }


def pipeline(
    name: str, *, sources: list[dict[str, Any]], processors: list[dict[str, Any]] | None = None, sinks: list[dict[str, Any]]
) -> str:
    """The text of a pipeline file."""
    spec: dict[str, Any] = {"sources": sources, **({"processors": processors} if processors else {}), "sinks": sinks}
    return yaml.safe_dump({"apiVersion": "flowctl/v1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec})


def linear(name: str, out: Path, *, count: int, rate: float = 0, **relay: Any) -> str:
    """numbers → double → keep."""
    return pipeline(
        name,
        sources=[component("numbers", "count", config={"count": count, "rate": rate})],
        processors=[component("double", "double", "numbers", **relay)],
        sinks=[component("keep", "keep", "double", config={"path": str(out)})],
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """What a ``keep`` sink has written; a half-written last line is not there yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def numbers_in(path: Path) -> Counter[int]:
    """How often each number is there."""
    return Counter(row["n"] for row in rows(path))
