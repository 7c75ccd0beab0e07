"""What the user reads: every problem at once, each with place, path, what was found, what was expected and the way out."""

import msgspec
import pytest

from flowctl.errors import InvalidSpecError
from flowctl.spec.checks import MAX_PIPELINE_BYTES, find_problems, verify
from flowctl.spec.load import load_text
from flowctl.spec.model import Component, Pipeline
from flowctl.spec.problems import MAX_PROBLEMS
from support.spec_texts import VALID, pipeline_text, problems_of

A = "[{id: a, type: generator}]"


def component(fields: str, *, kind: str = "processors") -> str:
    """A pipeline with one component of that kind to look at; ``fields`` begin after its id."""
    if kind == "sources":
        return pipeline_text(sources=f"[{{id: a, {fields}}}]")
    if kind == "sinks":
        return pipeline_text(sinks=f"[{{id: z, inputs: [a], {fields}}}]")
    return pipeline_text(processors=f"[{{id: m, inputs: [a], {fields}}}]", sinks="[{id: z, type: console, inputs: [m]}]")


def test_ten_typical_mistakes_read_like_this():
    """Golden: one file, ten mistakes, ten sentences in file order."""
    text = """\
apiVersion: flowctl/v2
kind: Pipeline
metadata: {name: My Orders}
spec:
  sources:
    - id: numbers
      type: genrator
      stop_timeout_s: 30s
      environment: {A: b}
  processors:
    - id: double
      command: python double.py
      inputs: [numbers]
      replicas: 0
      restart: {policy: on-failure}
      env: {PORT: 8080}
    - {id: half, command: [half], inputs: [numbers], driver: kubernetes}
  sinks:
    - id: screen
      type: console
      inputs: [double, half]
      ports: {data: 70000}
"""
    assert problems_of(text) == [
        'p.yaml:1:13: apiVersion: found "flowctl/v2", expected flowctl/v1 (did you mean "flowctl/v1"?)',
        (
            "p.yaml:3:18: metadata.name: found \"My Orders\", expected an id (lower-case letters, digits, '-' and '_', "
            "at most 63) (for example 'my-orders')"
        ),
        (
            'p.yaml:7:13: spec.sources[0].type: found "genrator", expected a ready-made source: generator or file '
            '(did you mean "generator"?)'
        ),
        (
            'p.yaml:8:23: spec.sources[0].stop_timeout_s: found "30s", expected a number from 0 to 3,600 '
            "(it counts seconds: write 30)"
        ),
        'p.yaml:9:7: spec.sources[0].environment: unknown field (did you mean "env"?)',
        (
            'p.yaml:12:16: spec.processors[0].command: found "python double.py", expected a list of strings '
            '(write a list: ["python", "double.py"])'
        ),
        "p.yaml:14:17: spec.processors[0].replicas: found the number 0, expected a whole number from 1 to 1,000",
        (
            'p.yaml:15:25: spec.processors[0].restart.policy: found "on-failure", expected never or on_failure '
            '(did you mean "on_failure"?)'
        ),
        'p.yaml:16:19: spec.processors[0].env.PORT: found the number 8080, expected a string (quote it: "8080")',
        (
            "p.yaml:17:62: spec.processors[1].driver: not in this version: this version starts components as processes or "
            "Docker containers (write driver: process or driver: docker)"
        ),
        "p.yaml:22:21: spec.sinks[0].ports.data: found the number 70000, expected a whole number from 1 to 65,535",
    ]


WIRING: dict[str, tuple[str, str]] = {
    "unknown input": (
        pipeline_text(sources="[{id: numbers, type: generator}]", sinks="[{id: z, type: console, inputs: [numbers, numbrs]}]"),
        'spec.sinks[0].inputs[1]: found "numbrs", expected the id of a source or processor (did you mean "numbers"?)',
    ),
    "unknown input, nothing near": (
        pipeline_text(sinks="[{id: z, type: console, inputs: [a, xyz]}]"),
        'spec.sinks[0].inputs[1]: found "xyz", expected the id of a source or processor (there are a)',
    ),
    "self-loop": (
        pipeline_text(processors="[{id: m, command: [x], inputs: [a, m]}]", sinks="[{id: z, type: console, inputs: [m]}]"),
        "spec.processors[0].inputs[1]: a component cannot be its own input (remove it)",
    ),
    "cycle": (
        pipeline_text(
            processors="[{id: b, command: [x], inputs: [a, d]}, {id: c, command: [x], inputs: [b]}, "
            "{id: d, command: [x], inputs: [c]}]",
            sinks="[{id: z, type: console, inputs: [d]}]",
        ),
        "the inputs form a cycle: b -> c -> d -> b (events flow from sources to sinks: remove one of these inputs)",
    ),
    "input twice": (
        pipeline_text(sinks="[{id: z, type: console, inputs: [a, {from: a}]}]"),
        'spec.sinks[0].inputs[1].from: "a" stands twice among the inputs',
    ),
    "sink as input": (
        pipeline_text(sinks="[{id: z, type: console, inputs: [a]}, {id: y, type: console, inputs: [z]}]"),
        'spec.sinks[1].inputs[0]: "z" is a sink and gives no events',
    ),
    "source with inputs": (
        component("type: generator, inputs: [z]", kind="sources"),
        "spec.sources[0].inputs: a source has no inputs",
    ),
    "sink without inputs": (
        pipeline_text(sinks="[{id: z, type: console, inputs: [a]}, {id: y, type: console}]"),
        'spec.sinks[1]: the sink "y" has no inputs (name the components whose events it takes)',
    ),
    "source that nobody reads": (
        pipeline_text(sources="[{id: a, type: generator}, {id: b, type: generator}]"),
        'spec.sources[1].id: nothing reads the source "b" (name it among the inputs of a processor or sink, or remove it)',
    ),
    "processor that nobody reads": (
        pipeline_text(processors="[{id: m, command: [x], inputs: [a]}]"),
        'spec.processors[0].id: nothing reads the processor "m"',
    ),
    "id twice": (
        pipeline_text(sinks="[{id: a, type: console, inputs: [a]}]"),
        'spec.sinks[0].id: the id "a" is taken by sources[0] (ids are unique among all sources, processors and sinks)',
    ),
    "port twice": (
        pipeline_text(
            sources="[{id: a, type: generator, ports: {data: 7000}}]",
            sinks="[{id: z, type: console, inputs: [a], ports: {health: 7000}}]",
        ),
        'spec.sinks[0].ports.health: the port 7000 is taken by "a"',
    ),
}

LOCAL: dict[str, tuple[str, str]] = {
    "nothing runs": (
        component("replicas: 1"),
        "processors[0]: found none of them, expected exactly one of type, command and image",
    ),
    "two run": (component("type: map, command: [x]"), "processors[0]: found type and command, expected exactly one of"),
    "type of another kind": (
        component("type: console"),
        'type: "console" is a sink, not a processor (expected filter, map or exec)',
    ),
    "type with args": (
        component("type: map, args: [x]"),
        "args: a ready-made component takes no args (write its settings under config)",
    ),
    "file replicas": (
        component("type: file, replicas: 2", kind="sources"),
        "replicas: found 2: each replica of a file source would",
    ),
    "empty command": (component("command: []"), "command: found no entries, expected at least 1"),
    "nameless program": (component('command: [""]'), "command[0]: the program's name is empty"),
    "NUL in an argument": (component('command: [x, "a\\0b"]'), "command[1]: the text holds a NUL character"),
    "reference in command": (
        component('command: [x, "${env:T}"]'),
        "command[1]: references are not filled in here: every user of",
    ),
    "reference in args": (component('command: [x], args: ["${file:t}"]'), "args[0]: references are not filled in here"),
    "reference in a label": (
        component('command: [x], placement: {labels: {a: "${env:Z}"}}'),
        "placement.labels.a: references are not filled in here (they may stand in the values of config and env)",
    ),
    "reference in a key": (
        component('command: [x], config: {"${env:A}": 1}'),
        'config["${env:A}"]: references are not filled in',
    ),
    "not a reference": (
        component('command: [x], config: {a: ["${HOME}"]}'),
        'config.a[0]: found "${HOME}", expected ${env:NAME}, ${env:NAME:-default} or ${file:path} (did you mean ${env:HOME}?',
    ),
    "open reference": (component('command: [x], env: {A: "${env:B"}'), 'env.A: found "${env:B", expected ${env:NAME}'),
    "bad variable": (component('command: [x], env: {"A B": c}'), 'env["A B"]: "A B" is not the name of an environment variable'),
    "variable with newline": (
        component('command: [x], env: {"A\\nB": c}'),
        'env["A\\nB"]: "A\\nB" is not the name of an environment',
    ),
    "our variable": (component("command: [x], env: {FLOWCTL_X: c}"), "env.FLOWCTL_X: names with FLOWCTL_ are what flowctl tells"),
    "LD_PRELOAD": (
        component("command: [x], env: {LD_PRELOAD: c}"),
        "env.LD_PRELOAD: LD_PRELOAD makes the dynamic loader run other code",
    ),
    "NUL in env": (component('command: [x], env: {A: "\\0"}'), "env.A: the text holds a NUL character"),
    "partition_by at a source": (
        component("type: generator, partition_by: id", kind="sources"),
        "partition_by: a source receives no events that could be shared out",
    ),
    "unknown partition_by": (
        component("command: [x], partition_by: key"),
        "partition_by: found 'key', expected id, type, payload,",
    ),
    "bad JMESPath": (component("command: [x], partition_by: 'payload.a['"), 'partition_by: "a[" is not a JMESPath: '),
    "ports with replicas": (component("command: [x], replicas: 2, ports: {data: 1}"), "ports: 2 replicas cannot share one port"),
    "equal ports": (component("command: [x], ports: {data: 1, health: 1}"), "ports.health: found 1, which is the data port"),
    "port 0": (
        component("command: [x], ports: {data: 0}"),
        "ports.data: found the number 0, expected a whole number from 1 to 65,535",
    ),
    "port -1": (
        component("command: [x], ports: {data: -1}"),
        "ports.data: found the number -1, expected a whole number from 1 to",
    ),
    "negative replicas": (
        component("command: [x], replicas: -1"),
        "replicas: found the number -1, expected a whole number from 1",
    ),
    "half a replica": (
        component("command: [x], replicas: 1.5"),
        "replicas: found the number 1.5, expected a whole number from 1",
    ),
    "probe longer than its interval": (
        component("command: [x], health_check: {interval_s: 1}"),
        "health_check.timeout_s: a probe may take 2 s, and the next begins after 1 s",
    ),
    "back-off upside down": (
        component("command: [x], restart: {backoff: {initial_s: 60}}"),
        "restart.backoff.initial_s: the first wait of 60 s is longer than the longest, 30 s",
    ),
    "restart without effect": (
        component("command: [x], restart: {policy: never, max_attempts: 1}"),
        "restart: the policy is never, so",
    ),
    "retry without effect": (component("command: [x], on_error: {attempts: 5}"), "on_error: the action is fail, so nothing else"),
    "a source that is given nothing": (
        component("type: generator, on_error: {action: retry}", kind="sources"),
        "on_error: a source is given no events that it could fail on",
    ),
    "image": (
        component("image: x"),
        "image: the process driver runs no containers (write driver: docker, or remove it)",
    ),
    "container of a process": (
        component("command: [x], container: {pids: 5}"),
        "container: the process driver runs no containers",
    ),
    "image name": (
        component('image: "Not An Image", driver: docker'),
        'image: "Not An Image" is not the name of an image',
    ),
    "image and two more": (
        component("type: map, command: [x], image: x, driver: docker"),
        "found type and command and image, expected exactly one of type, command and image; in a container, image may",
    ),
    "privileged with capabilities": (
        component("image: x, driver: docker, container: {privileged: true, capabilities: [NET_RAW]}"),
        "container.capabilities: a privileged container has every capability",
    ),
    "a relative volume": (
        component('image: x, driver: docker, container: {volumes: [{source: "./x", target: /x}]}'),
        'container.volumes[0].source: "./x" is neither an absolute path nor the name of a volume',
    ),
    "a volume over flowctl's own": (
        component("image: x, driver: docker, container: {volumes: [{source: /x, target: /run/flowctl/x}]}"),
        'container.volumes[0].target: "/run/flowctl/x" is taken',
    ),
    "a volume of several writers": (
        component("image: x, driver: docker, replicas: 2, container: {volumes: [{source: /x, target: /x}]}"),
        'container.volumes[0]: 2 replicas would write into "/x" at once',
    ),
    "resources": (
        component("command: [x], resources: {cpu: 1}"),
        "resources: not in this version: the process driver cannot limit cpu",
    ),
    "driver": (
        pipeline_text(head="  driver: kubernetes\n"),
        "p.yaml:5:11: spec.driver: not in this version: this version starts",
    ),
    "null list": (
        pipeline_text(processors="~"),
        "spec.processors: found nothing, expected a list (write a value or remove the key)",
    ),
    "no sinks": (pipeline_text(sinks="[]"), "spec.sinks: found no entries, expected at least 1"),
    "foreign word": (
        component("command: [x], depends_on: [a]").replace("inputs: [a], ", "", 1),
        'unknown field (did you mean "inputs"?)',
    ),
    "misplaced": ("apiVersion: flowctl/v1\nsources: []\n", 'p.yaml:2:1: sources: unknown field (it belongs under "spec")'),
}


@pytest.mark.parametrize("name", WIRING)
def test_components_that_do_not_fit_together_are_refused(name: str):
    """The sentence is there, and a pipeline without a file gets the same one."""
    text, expected = WIRING[name]
    assert any(expected in line for line in problems_of(text)), problems_of(text)


@pytest.mark.parametrize("name", LOCAL)
def test_a_component_that_cannot_be_obeyed_is_refused(name: str):
    """One mistake gives one sentence, and no others that only follow from it."""
    text, expected = LOCAL[name]
    found = problems_of(text)
    assert any(expected in line for line in found), found
    if name not in {"type of another kind", "misplaced"}:
        assert len(found) == 1, found


@pytest.mark.parametrize(
    "bad", ["*", ">", ".", "..", "-rf", "$JS", "A", "a b", "a.b", "a/b", "é", "x" * 64, "''", "~", "1.5", "[a]"]
)
def test_ids_that_could_not_be_subject_tokens_are_refused(bad: str):
    """Ids go into subjects, file names and host names."""
    quoted = bad if bad in {"''", "~", "1.5", "[a]"} else f'"{bad}"'
    (found,) = problems_of(pipeline_text(sources=f"[{{id: {quoted}, type: generator}}]"))
    assert found.startswith("p.yaml:5:18: spec.sources[0].id: found ")
    assert "expected an id" in found


def test_fixed_ports_may_meet_on_different_hosts():
    """Two components that are bound to two hosts cannot take each other's port."""
    text = pipeline_text(
        sources="[{id: a, type: generator, ports: {data: 7000}, placement: {host: h1}}]",
        sinks="[{id: z, type: console, inputs: [a], ports: {data: 7000}, placement: {host: h2}}]",
    )
    assert not problems_of(text)


def test_what_follows_from_an_unread_value_is_not_reported():
    """A mistyped ``inputs`` must not also give "nothing reads a"."""
    text = pipeline_text(sinks="[{id: z, type: consle, input: [a]}]")
    assert [line.partition(": ")[2] for line in problems_of(text)] == [
        'spec.sinks[0].type: found "consle", expected a ready-made sink: file, sqlite, console or http (did you mean "console"?)',
        'spec.sinks[0].input: unknown field (did you mean "inputs"?)',
    ]


def test_dollars_that_no_shell_will_expand_are_warned_of():
    """There is no shell, unless the command is one."""
    loaded = load_text(component('command: [x, "$(date)"], args: ["$HOME", plain]'), "p.yaml")
    assert [str(warning).partition(": ")[2].partition(" is passed")[0] for warning in loaded.warnings] == [
        'spec.processors[0].command[1]: "$(date)"',
        'spec.processors[0].args[0]: "$HOME"',
    ]
    assert not load_text(component('command: [sh, -c, "echo $HOME"]')).warnings


def test_the_number_of_problems_shown_is_bounded():
    """A hundred, and how many more there are."""
    found = problems_of(pipeline_text(sources="[" + ",".join(f"{{id: a{n}}}" for n in range(150)) + "]"))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1].endswith("more problems")


def test_sizes_are_bounded():
    """Components, instances, and the bytes that go into one journal entry."""
    ids = [f"a{n}" for n in range(1_001)]
    sources = "[" + ",".join(f"{{id: {id_}, type: generator, replicas: 11}}" for id_ in ids) + "]"
    found = problems_of(pipeline_text(sources=sources, sinks=f"[{{id: z, type: console, inputs: [{','.join(ids)}]}}]"))
    assert "spec: found 1,002 components, expected at most 1,000" in found[0]
    assert "spec: the replicas sum up to 11,012, expected at most 10,000" in found[1]
    (large,) = problems_of(component(f"command: [x], config: {{a: {'x' * MAX_PIPELINE_BYTES}}}"))
    assert "bytes as JSON, expected at most 524,288" in large


def test_the_same_checks_run_without_a_file():
    """The orchestrator asks again on submit, of a value that no file stands behind."""
    pipeline = load_text(VALID).pipeline
    verify(pipeline)
    assert not find_problems(msgspec.json.decode(msgspec.json.encode(pipeline), type=Pipeline))
    extra = Component(id="screen", command=["x", "\0"], config={"a": float("nan"), "b": [2**70]}, inputs=["gone"])
    broken = msgspec.structs.replace(pipeline, spec=msgspec.structs.replace(pipeline.spec, processors=[extra]))
    with pytest.raises(InvalidSpecError) as caught:
        verify(broken)
    paths = {problem.path for problem in find_problems(broken)}
    assert ("spec", "processors", 0, "config", "a") in paths
    assert ("spec", "processors", 0, "config", "b", 0) in paths
    assert ("spec", "processors", 0, "inputs", 0) in paths
    assert ("spec", "sinks", 0, "id") in paths
    assert all(problem.place is None and problem.message.startswith("spec.") for problem in caught.value.problems)


def test_positions_lead_to_any_part():
    """Later findings about a pipeline (an unreachable host, say) can name the line too."""
    positions = load_text(VALID, "p.yaml").positions
    assert positions.place(("spec", "processors", 0, "inputs", 0)) == "p.yaml:17:16"
    assert positions.place(("spec", "processors", 0, "replicas"), at_key=True) == "p.yaml:18:7"
    assert positions.place(("spec", "processors", 0, "ports", "data")) == "p.yaml:14:7"


def test_a_misspelt_field_does_not_hide_a_wrong_input():
    """All problems of a file come at once; only a field that may be a misspelt `inputs` leaves the graph unjudged."""
    sinks = "[{id: z, type: console, inputs: [b], replica: 2}]"
    said = problems_of(pipeline_text(sources="[{id: a, type: generator}]", sinks=sinks))
    assert any("replica" in each for each in said)
    assert any('found "b"' in each for each in said)
    unsure = problems_of(pipeline_text(sources="[{id: a, type: generator}]", sinks="[{id: z, type: console, input: [a]}]"))
    assert len(unsure) == 1
