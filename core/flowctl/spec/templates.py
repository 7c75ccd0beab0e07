"""What ``flowctl init`` writes: pipelines to start from, each of which loads without a problem or warning and runs."""

from textwrap import dedent
from typing import Final

import msgspec

from flowctl.spec.schema import EDITOR_LINE

PIPELINE_FILE: Final = "pipeline.yaml"


class Template(msgspec.Struct, frozen=True):
    """One starting point: its files by name, ``pipeline.yaml`` among them, to be written beside the schema's file."""

    name: str
    summary: str
    files: dict[str, str]

    @property
    def pipeline(self) -> str:
        """The text of the pipeline file."""
        return self.files[PIPELINE_FILE]


def _template(name: str, summary: str, spec: str, **others: str) -> Template:
    head = f"""\
        {EDITOR_LINE}
        apiVersion: flowctl/v1
        kind: Pipeline
        metadata:
          name: {name}
    """
    pipeline = dedent(head) + dedent(spec)
    return Template(name, summary, {PIPELINE_FILE: pipeline, **{k.replace("__", "."): dedent(v) for k, v in others.items()}})


_ALL: Final = (
    _template(
        "quickstart",
        "numbers made up, changed and printed; nothing else needed",
        """\
        spec:
          sources:
            - id: numbers
              type: generator
              config:
                count: 20          # without it, events come for ever
                rate: 10           # events per second
                random:
                  temperature: {low: -5, high: 30, digits: 1}
          processors:
            - id: reading
              type: map
              inputs: [numbers]
              config:
                select: "{number: seq, celsius: temperature}"
          sinks:
            - id: screen
              type: console
              inputs: [reading]
        """,
    ),
    _template(
        "file-to-file",
        "the rows of a CSV file, filtered, as JSON lines in another file",
        """\
        spec:
          sources:
            - id: orders
              type: file
              config:
                path: orders.csv
                format: csv        # or lines, or json (a document on each line)
          processors:
            - id: large
              type: filter
              inputs: [orders]
              config:
                where: "to_number(total) >= `100`"    # JMESPath; CSV values are texts
          sinks:
            - id: result
              type: file
              inputs: [large]
              config:
                path: large-orders.jsonl
        """,
        orders__csv="""\
        id,customer,total
        1,ada,250
        2,grace,40
        3,edsger,100
        """,
    ),
    _template(
        "python",
        "a processor of your own, written with the SDK",
        """\
        spec:
          sources:
            - id: numbers
              type: generator
              config: {count: 20, rate: 10}
          processors:
            - id: double
              command: [python, double.py]
              inputs: [numbers]
              config:
                factor: 2          # the program finds it in ctx.config
              env:
                GREETING: "${env:GREETING:-hello}"    # filled in where the program starts
              on_error:
                action: retry
                attempts: 3
          sinks:
            - id: screen
              type: console
              inputs: [double]
        """,
        double__py='''\
        """Multiplies each number by the factor of the pipeline file."""

        import os

        from flowctl_sdk import Context, Event, Processor, run


        class Double(Processor):
            """Multiplies each number."""

            async def open(self, ctx: Context) -> None:
                self.factor = ctx.config["factor"]
                ctx.log.info("%s from %s", os.environ["GREETING"], ctx.instance)

            def process(self, event: Event) -> dict[str, int]:
                return {"number": event.json()["seq"] * self.factor}


        if __name__ == "__main__":
            run(Double())
        ''',
    ),
    _template(
        "fan-out",
        "one source read by two processors, both written to one file",
        """\
        spec:
          sources:
            - id: readings
              type: generator
              config:
                count: 100
                random:
                  city: {choice: [Oslo, Rome]}
                  temperature: {low: -5, high: 30}
          processors:
            - id: cold
              type: filter
              inputs: [readings]
              config: {where: "temperature < `5`"}
            - id: warm
              type: map
              inputs: [readings]
              replicas: 2
              partition_by: payload.city    # events of one city always meet the same replica
              config: {select: "{city: city, fahrenheit: temperature}"}
          sinks:
            - id: all
              type: file
              inputs: [cold, warm]          # whatever both give
              config: {path: readings.jsonl}
        """,
    ),
    _template(
        "exec",
        "a program that knows nothing of flowctl as a processor",
        """\
        spec:
          sources:
            - id: numbers
              type: generator
              config: {count: 20}
          processors:
            - id: upper
              type: exec
              inputs: [numbers]
              config:
                command: [python, upper.py]
          sinks:
            - id: screen
              type: console
              inputs: [upper]
        """,
        upper__py="""\
        import sys

        for line in sys.stdin:  # a line for each event; each is answered with a line
            print(line.strip().upper(), flush=True)
        """,
    ),
)

TEMPLATES: Final[dict[str, Template]] = {template.name: template for template in _ALL}
