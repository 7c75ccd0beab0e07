"""From ``flowctl up`` to the first event in the sink, with nothing running before; and ``flowctl --help``.

Three programs (generator, map, a sink that stamps the time), an embedded NATS server, all services: everything is started by
the one command. Medians. ``bare_python_s`` is an interpreter that does nothing, for comparison.
"""

import subprocess
import sys
import time
from pathlib import Path

from harness import FLOWCTL, PROGRAMS, start, state, wait_for_file
from report import median, parser, progress, publish

PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {{name: startup}}
spec:
  sources:
    - id: numbers
      type: generator
      config: {{count: 1}}
  processors:
    - id: same
      type: map
      inputs: [numbers]
      config: {{select: "@"}}
  sinks:
    - id: stamp
      command: ["{python}", "{program}"]
      inputs: [same]
      config: {{path: "{path}"}}
"""


def first_event_s() -> float:
    """One measurement."""
    with state() as directory:
        path, file = directory / "stamp.txt", directory / "pipeline.yaml"
        file.write_text(PIPELINE.format(python=sys.executable, program=PROGRAMS / "stamp.py", path=path))
        begun = time.monotonic_ns()
        process = start(directory, "up", str(file))
        arrived = int(wait_for_file(path, 60).split()[0])
        if process.wait(60) != 0:
            raise SystemExit("flowctl up failed")
        return (arrived - begun) / 1e9


def command_s(argv: list[str]) -> float:
    """How long a command takes."""
    begun = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=7)
    chosen = options.parse_args()
    ups: list[float] = []
    for number in range(chosen.runs):
        ups.append(first_event_s())
        progress(f"run {number + 1}/{chosen.runs}: first event after {ups[-1]:.2f} s")
    script = Path(sys.executable).with_name("flowctl")
    help_command = [str(script), "--help"] if script.exists() else [*FLOWCTL, "--help"]
    figures = {
        "first_event_s": median(ups),
        "first_event_max_s": max(ups),
        "help_s": median([command_s(help_command) for _ in range(11)]),
        "bare_python_s": median([command_s([sys.executable, "-c", "pass"]) for _ in range(11)]),
    }
    publish("startup", figures, as_json=chosen.json, targets={"first_event_s": "≤ 1.5", "help_s": "≤ 0.2"})


if __name__ == "__main__":
    main()
