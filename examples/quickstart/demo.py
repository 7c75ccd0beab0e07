"""What ``make demo`` runs: the quickstart through the real CLI, what happened, and a check of the result by plain Python.

Keeps its state in ``out/demo``; the result lies in ``examples/quickstart/out``. Exits with 1 if anything is not as it must be.
"""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STATE = ROOT / "out" / "demo"
RESULT = HERE / "out" / "expensive.jsonl"
DATA = HERE / "birdstrikes.csv"
PIPELINE = HERE / "pipeline.yaml"
UP_S = 120.0

sys.path.insert(0, str(HERE))
from costs import priced  # noqa: E402


class DemoError(Exception):
    """Something is not as it must be."""


def main() -> int:
    """Run it; the exit code."""
    try:
        show(f"$ flowctl up {PIPELINE.relative_to(ROOT)}")
        began = time.monotonic()
        events_before = journal_end()
        flowctl("up", str(PIPELINE), timeout_s=UP_S)
        took_s = time.monotonic() - began
        story(events_before)
        rows, strikes = check()
    except DemoError as error:
        sys.stderr.write(f"the demo failed: {error}\n")
        return 1
    finally:
        flowctl("server", "stop", check=False, capture=True)
    costliest(strikes)
    tell(rows, strikes, took_s)
    return 0


def flowctl(*arguments: str, check: bool = True, capture: bool = False, timeout_s: float = 30.0) -> str:
    """Run the CLI of this interpreter, with our state directory; returns what it printed if that is to be captured.

    Raises:
        DemoError: if it fails and ``check`` is set.
    """
    environ = {"FLOWCTL_REGISTRY_LISTEN": "127.0.0.1:0", **os.environ, "FLOWCTL_STATE_DIR": str(STATE)}
    environ.pop("FLOWCTL_NATS_URL", None)
    # `command: [python, …]` in the pipeline means the interpreter that has flowctl.
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flowctl_cli", *arguments],
            env=environ,
            cwd=ROOT,
            timeout=timeout_s,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.PIPE if capture else None,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        if check:
            raise DemoError(f"`flowctl {arguments[0]}` took longer than {timeout_s:.0f} s") from None
        return ""
    if check and done.returncode != 0:
        raise DemoError(f"`flowctl {arguments[0]}` exited with {done.returncode}: {done.stderr or ''}".rstrip(": "))
    return done.stdout or ""


def journal_end() -> int:
    """The sequence of the last entry that an earlier demo left behind."""
    if not STATE.exists():
        return 0
    # Empty where an earlier demo was ended before it had a journal.
    newest = json.loads(flowctl("history", "--limit", "1", "--json", check=False, capture=True) or "[]")
    return int(newest[0]["seq"]) if newest else 0


def story(events_before: int) -> None:
    """What the journal says of this run."""
    show("\n$ flowctl history quickstart")
    flowctl("history", "quickstart", "--after", str(events_before))


def check() -> tuple[int, list[dict[str, Any]]]:
    """Compare the result with a plain computation of the same: rows in, and the strikes that came out.

    Raises:
        DemoError: if they differ.
    """
    with DATA.open(newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    expected = [strike for row in rows if (strike := priced(row, 1)) is not None]
    if not RESULT.exists():
        raise DemoError(f"there is no {RESULT}")
    found = [json.loads(line) for line in RESULT.read_text(encoding="utf-8").splitlines()]
    if found != expected:
        missing = sum(strike not in found for strike in expected)
        raise DemoError(f"the result has {len(found)} strikes and should have {len(expected)}; {missing} are missing")
    return len(rows), found


def costliest(strikes: list[dict[str, Any]]) -> None:
    """A few lines of the result."""
    show("\nThe five most expensive encounters:")
    for strike in sorted(strikes, key=lambda strike: -strike["dollars"])[:5]:
        price = f"{strike['dollars']:,} $"
        show(f"  {strike['date']}  {price:>12}  {strike['species']:<20} {strike['aircraft']:<11} {strike['airport']}")


def tell(rows: int, strikes: list[dict[str, Any]], took_s: float) -> None:
    """Where everything lies, and what to try next."""
    dollars = sum(strike["dollars"] for strike in strikes)
    state = f"--state-dir {STATE.relative_to(ROOT)}"
    show(
        f"\n{rows:,} rows in, {len(strikes)} strikes out, {dollars:,} $ of damage, "
        f"in {took_s:.1f} s from a cold start to the end.\n"
        "A plain Python loop over the same file gives exactly the same.\n\n"
        f"  the result      {RESULT.relative_to(ROOT)}\n"
        f"  the data        {DATA.relative_to(ROOT)} (its source: {(HERE / 'DATA.md').relative_to(ROOT)})\n"
        f"  the journal     {STATE.relative_to(ROOT)}\n\n"
        "Next, with .venv/bin on the PATH (`. .venv/bin/activate`):\n"
        f"  flowctl {state} history quickstart.costs\n"
        f"  flowctl {state} logs quickstart\n"
        "  flowctl graph examples/quickstart/pipeline.yaml\n"
        "  flowctl up examples/shapes/diamond.yaml"
    )


def show(text: str) -> None:
    """Print at once: the CLI's own output comes between."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
