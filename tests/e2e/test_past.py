"""A component is killed in the real system: what `why`, `diff` and `report` say of it afterwards is what happened."""

import os
import signal
import time
from pathlib import Path

from support.flowctl import control_plane, until

PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: orders}
spec:
  sources:
    - {id: numbers, type: generator, config: {rate: 20}}
  sinks:
    - {id: out, type: file, inputs: [numbers], config: {path: out.jsonl}}
"""


def test_a_kill_is_explained_compared_and_counted(tmp_path: Path):
    """The signal, the restart and its rule; the incarnation that differs; one failure, seen at once and repaired in seconds."""
    with control_plane(tmp_path) as flowctl:
        flowctl.write("orders.yaml", PIPELINE)
        flowctl.run("up", "--detach", "--wait", "orders.yaml")
        before = flowctl.json("status", "orders")["seq"]
        killed_s = time.monotonic()
        os.kill(int(flowctl.instances("orders")["orders.out.0"]["handle"]), signal.SIGKILL)

        def again() -> bool:
            found = flowctl.instances("orders")["orders.out.0"]
            return found["incarnation"] == 2 and found["status"] == "healthy"

        until(again, "the second incarnation")
        took_s = time.monotonic() - killed_s
        explained = flowctl.json("why", "orders.out.0")["explanation"]
        told = [(step["type"], step["sentence"]) for step in explained["chain"]]
        assert [kind for kind, _ in told] == [
            "PipelineSubmitted",
            "ComponentAssigned",
            "ComponentExited",
            "ComponentStarting",
            "ComponentStarted",
            "ComponentRegistered",
        ]
        assert "signal 9 (SIGKILL); nobody had asked for that" in told[2][1]
        assert "restart policy" in explained["chain"][2]["rule"]
        assert explained["chain"][3]["causation"] == explained["chain"][2]["seq"]
        assert len({step["correlation"] for step in explained["chain"]}) == 1
        differing = flowctl.json("diff", str(before), "now", "orders")["changes"]
        marks = {(each["subject"], each["field"]): (each["before"], each["after"]) for each in differing}
        assert marks["orders.out.0", "incarnation"] == (1, 2)
        assert marks["orders.out.0", "restarts"] == (0, 1)
        rows = {row["subject"]: row for row in flowctl.json("report", "availability", "orders", "--from", str(before))["rows"]}
        assert (rows["orders.out"]["failures"], rows["orders.out"]["restarts"], rows["orders.out"]["open"]) == (1, 1, 0)
        assert rows["orders.out"]["detect_max_s"] <= 1.0
        assert 0 < rows["orders.out"]["repair_max_s"] <= took_s
        assert rows["orders.out"]["down_s"] <= took_s
        assert (rows["orders.numbers"]["failures"], rows["orders.numbers"]["availability"]) == (0, 1.0)
        flowctl.run("diff", "now", str(before), expect=2)
