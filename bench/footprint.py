"""Memory and idle CPU of the control plane with a pipeline of ten components.

PSS of the all-in-one server and of its NATS server, and the processor time that both use together while nothing happens but
heartbeats, health checks and one event a second.
"""

import asyncio
import time

from harness import cpu_s, flowctl, pss_mb, server, state, until_running
from report import parser, progress, publish

HEAD = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: footprint}
spec:
  sources:
    - {id: tick, type: generator, config: {rate: 1}}
  processors:
"""
PROCESSOR = '    - {{id: step{n}, type: map, inputs: [{upstream}], config: {{select: "@"}}}}\n'
TAIL = """\
  sinks:
    - {id: out, type: console, inputs: [step7]}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=60.0, help="how long to look at it idle")
    chosen = options.parse_args()
    steps = "".join(PROCESSOR.format(n=n, upstream=f"step{n - 1}" if n else "tick") for n in range(8))
    with state() as directory:
        file = directory / "pipeline.yaml"
        file.write_text(HEAD + steps + TAIL)
        flowctl(directory, "up", "--detach", str(file))
        asyncio.run(until_running(directory, "footprint"))
        progress(f"ten components run; looking for {chosen.seconds:g} s")
        time.sleep(5)
        here = server(directory)
        control, nats = int(here["pid"]), int(here["nats_pid"])
        begun, control_s, nats_s = time.monotonic(), cpu_s(control), cpu_s(nats)
        time.sleep(chosen.seconds)
        elapsed = time.monotonic() - begun
        control_percent = 100 * (cpu_s(control) - control_s) / elapsed
        nats_percent = 100 * (cpu_s(nats) - nats_s) / elapsed
        figures = {
            "control_plane_mb": pss_mb(control),
            "nats_mb": pss_mb(nats),
            "idle_cpu_percent": control_percent + nats_percent,
            "idle_control_plane_percent": control_percent,
            "idle_nats_percent": nats_percent,
        }
    publish(
        "footprint",
        figures,
        as_json=chosen.json,
        targets={"control_plane_mb": "≤ 100", "nats_mb": "≤ 60", "idle_cpu_percent": "≤ 3"},
    )


if __name__ == "__main__":
    main()
