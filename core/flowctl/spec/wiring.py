"""Whether the components of a pipeline fit together: ids, inputs, readers, cycles, ports."""

from collections.abc import Iterator
from typing import Final

from flowctl.spec.model import Component, Kind, Pipeline
from flowctl.spec.problems import Path, Problem, did_you_mean, quoted
from flowctl.topology import find_cycle

_LISTS: Final[dict[Kind, str]] = {"source": "sources", "processor": "processors", "sink": "sinks"}

Placed = list[tuple[Kind, Component, Path]]


def wiring_problems(pipeline: Pipeline) -> list[Problem]:
    """Every problem of the graph, by component in file order; a cycle is named once, last."""
    placed = placed_components(pipeline)
    kinds: dict[str, Kind] = {}
    for kind, component, _ in placed:
        kinds.setdefault(component.id, kind)
    read = {entry.from_ for _, component, _ in placed for entry in component.upstreams}
    return [
        *_twins(placed),
        *(problem for kind, component, path in placed for problem in _inputs(kind, component, path, kinds)),
        *(problem for kind, component, path in placed for problem in _readers(kind, component, path, read)),
        *_shared_ports(placed),
        *_cycle(placed),
    ]


def placed_components(pipeline: Pipeline) -> Placed:
    """Every component with its kind and its path, in file order."""
    counts: dict[Kind, int] = {"source": 0, "processor": 0, "sink": 0}
    placed: Placed = []
    for kind, component in pipeline.components():
        placed.append((kind, component, ("spec", _LISTS[kind], counts[kind])))
        counts[kind] += 1
    return placed


def _twins(placed: Placed) -> Iterator[Problem]:
    first: dict[str, Path] = {}
    for _, component, path in placed:
        where = (*path, "id")
        other = first.setdefault(component.id, where)
        if other != where:
            message = f"the id {quoted(component.id)} is taken by {other[1]}[{other[2]}]"
            yield Problem(where, message, "ids are unique among all sources, processors and sinks")


def _inputs(kind: Kind, component: Component, path: Path, kinds: dict[str, Kind]) -> Iterator[Problem]:
    inputs = (*path, "inputs")
    if kind == "source":
        if component.inputs:
            yield Problem(inputs, "a source has no inputs", "make it a processor, or remove inputs")
        return
    if not component.inputs:
        yield Problem(path, f"the {kind} {quoted(component.id)} has no inputs", "name the components whose events it takes")
    seen: set[str] = set()
    for number, entry in enumerate(component.inputs):
        name = entry if isinstance(entry, str) else entry.from_
        where = (*inputs, number) if isinstance(entry, str) else (*inputs, number, "from")
        if name in seen:
            yield Problem(where, f"{quoted(name)} stands twice among the inputs", "one edge carries every event: keep one")
        elif name == component.id:
            yield Problem(where, "a component cannot be its own input", "remove it")
        elif name not in kinds:
            writers = [id_ for id_, its_kind in kinds.items() if its_kind != "sink" and id_ != component.id]
            message = f"found {quoted(name)}, expected the id of a source or processor"
            listed = ", ".join(writers[:10]) + (", …" if len(writers) > 10 else "")
            yield Problem(where, message, did_you_mean(name, writers) or f"there are {listed}")
        elif kinds[name] == "sink":
            yield Problem(where, f"{quoted(name)} is a sink and gives no events", "name a source or processor")
        seen.add(name)


def _readers(kind: Kind, component: Component, path: Path, read: set[str]) -> Iterator[Problem]:
    if kind != "sink" and component.id not in read:
        hint = "name it among the inputs of a processor or sink, or remove it"
        yield Problem((*path, "id"), f"nothing reads the {kind} {quoted(component.id)}", hint)


def _shared_ports(placed: Placed) -> Iterator[Problem]:
    taken: dict[int, list[tuple[str | None, Component]]] = {}
    for _, component, path in placed:
        ports = component.ports
        if ports is None:
            continue
        host = component.placement.host if component.placement is not None else None
        for field, port in (("data", ports.data), ("health", ports.health)):
            if port is None:
                continue
            others = taken.setdefault(port, [])
            # two components that are bound to different hosts cannot meet
            meets = next((o for h, o in others if o is not component and (h is None or host is None or h == host)), None)
            if meets is not None:
                message = f"the port {port} is taken by {quoted(meets.id)}"
                yield Problem((*path, "ports", field), message, "write another, or remove it: instances take free ports")
            others.append((host, component))


def _cycle(placed: Placed) -> Iterator[Problem]:
    upstreams = {c.id: [entry.from_ for entry in c.upstreams if entry.from_ != c.id] for _, c, _ in placed}
    cycle = find_cycle(upstreams)
    if not cycle:
        return
    reader, writer = cycle[1], cycle[0]
    component, path = next((component, path) for _, component, path in placed if component.id == reader)
    number = next(number for number, entry in enumerate(component.upstreams) if entry.from_ == writer)
    message = f"the inputs form a cycle: {' -> '.join(cycle)}"
    yield Problem((*path, "inputs", number), message, "events flow from sources to sinks: remove one of these inputs")
