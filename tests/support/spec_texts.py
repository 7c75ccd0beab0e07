"""Pipeline files for tests."""

from flowctl.errors import InvalidSpecError
from flowctl.spec.load import load_text

VALID = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata:
  name: orders
  labels: {team: shop}
spec:
  description: all of it
  sources:
    - id: numbers
      type: generator
      config: {count: 3, rate: 1.5, nested: [{deep: "${env:HOME:-x}"}, null, true]}
      env: {MODE: fast, CERT: "a\\nb"}
  processors:
    - id: double
      command: [python, double.py]
      args: [--fast]
      inputs: [numbers]
      replicas: 2
      partition_by: payload.customer.id
      restart: {max_attempts: 3, backoff: {initial_s: 0.5}}
      on_error: {action: retry, attempts: 5}
      health_check: {path: /ok, interval_s: 2, timeout_s: 1}
      placement: {labels: {zone: a}}
      stop_timeout_s: 5
  sinks:
    - id: screen
      type: console
      inputs: [{from: double}, numbers]
      ports: {data: 7001, health: 7002}
"""


def pipeline_text(
    *,
    head: str = "",
    sources: str = "[{id: a, type: generator}]",
    processors: str = "",
    sinks: str = "[{id: z, type: console, inputs: [a]}]",
) -> str:
    """A small pipeline; each argument is YAML in flow style."""
    middle = f"  processors: {processors}\n" if processors else ""
    return (
        "apiVersion: flowctl/v1\nkind: Pipeline\nmetadata: {name: p}\n"
        f"spec:\n{head}  sources: {sources}\n{middle}  sinks: {sinks}\n"
    )


def problems_of(text: str | bytes) -> list[str]:
    """The problems of a pipeline text, each as the user reads it; none if it loads."""
    try:
        load_text(text, "p.yaml")
    except InvalidSpecError as error:
        return [str(problem) for problem in error.problems]
    return []


TICKING = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: orders}
spec:
  sources:
    - {id: ticks, type: generator, config: {rate: 5}}
  sinks:
    - {id: shown, type: console, inputs: [ticks]}
"""
"""A pipeline that goes on for ever: a tick every fifth of a second, shown on a console."""
