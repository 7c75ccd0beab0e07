"""The dashboard and the alerts ask for what is really there: every metric in them is one that a running flowctl shows."""

import json
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.flowctl import control_plane, until
from support.pipelines import linear

pytestmark = pytest.mark.timeout(120)

DEPLOY = Path(__file__).parents[2] / "deploy"
_METRIC = re.compile(r"\bflowctl_[a-z0-9_]+")


def expressions() -> dict[str, str]:
    """Every query of the dashboard and of the alerts, by its name."""
    dashboard = json.loads((DEPLOY / "grafana" / "flowctl.json").read_text())
    found = {f"panel {panel['title']}": " ".join(each["expr"] for each in panel["targets"]) for panel in dashboard["panels"]}
    rules: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"], rule
            assert rule["labels"]["severity"] in {"info", "warning", "critical"}, rule
            found[f"alert {rule['alert']}"] = rule["expr"]
    return found


def samples(address: str) -> set[str]:
    """The names of what a /metrics page shows, those without a sample yet too."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    declared = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
    shown = {re.split(r"[ {]", line, maxsplit=1)[0] for line in text.splitlines() if line and not line.startswith("#")}
    suffixes = {"counter": ("", "_total"), "histogram": ("_bucket", "_sum", "_count")}
    return shown | {name + suffix for name, kind in declared.items() for suffix in suffixes.get(kind, ("",))}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_metric_that_is_asked_for_exists(tmp_path: Path):
    """Scraped from a real control plane and from its components."""
    address = f"127.0.0.1:{free_port()}"
    with control_plane(tmp_path, http_listen=address) as flowctl:
        file = flowctl.write("orders.yaml", linear("orders", tmp_path / "out.jsonl", count=1_000_000, rate=500))
        flowctl.run("up", "--detach", "--wait", str(file))
        registered = [each["data"] for each in flowctl.history("--type", "ComponentRegistered")]
        pages = [address, *(each["health_endpoint"] for each in registered)]
        assert len(pages) == 4
        until(lambda: "flowctl_edge_delivery_seconds_bucket" in samples(pages[1]), "the first acknowledgement")
        there = set[str]().union(*(samples(page) for page in pages))
    wanted = {name: set(_METRIC.findall(query)) for name, query in expressions().items()}
    assert {name: missing for name, asked in wanted.items() if (missing := asked - there)} == {}


def test_the_handbook_explains_every_alert():
    """docs/operations.md has a row for each."""
    handbook = (DEPLOY.parent / "docs" / "operations.md").read_text()
    alerts = [name.removeprefix("alert ") for name in expressions() if name.startswith("alert ")]
    assert [name for name in alerts if f"`{name}`" not in handbook] == []
