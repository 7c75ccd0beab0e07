"""The graph of a pipeline: who feeds whom, in which order, and what of a component makes it the same component.

Pure. ``flowctl.drawing`` draws a graph.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Self, cast

import msgspec

from flowctl.errors import UserError
from flowctl.spec.model import Component, Input, Kind, Pipeline


class Edge(msgspec.Struct, frozen=True, order=True):
    """One component's output feeding another's input."""

    upstream: str
    downstream: str


class GraphNode(msgspec.Struct, frozen=True):
    """One component in the graph. ``level`` is the length of the longest way to it from a source; a source's is 0."""

    id: str
    kind: Kind
    replicas: int
    level: int
    upstreams: tuple[str, ...]
    downstreams: tuple[str, ...]


class Graph(msgspec.Struct, frozen=True):
    """The components of a pipeline in topological order, each level in file order."""

    nodes: dict[str, GraphNode]

    @classmethod
    def of(cls, pipeline: Pipeline) -> Self:
        """The graph of a pipeline whose inputs exist and form no cycle (``flowctl.spec.checks`` says so beforehand).

        Raises:
            UserError: if they do not.
        """
        components: dict[str, tuple[Kind, Component]] = {c.id: (kind, c) for kind, c in pipeline.components()}
        upstreams = {id_: tuple(dict.fromkeys(i.from_ for i in c.upstreams)) for id_, (_, c) in components.items()}
        unknown = next((name for names in upstreams.values() for name in names if name not in components), None)
        if unknown is not None:
            raise UserError(f"the pipeline {pipeline.name!r} has no component {unknown!r}")
        cycle = find_cycle(upstreams)
        if cycle:
            raise UserError(f"the pipeline {pipeline.name!r} has a cycle: {' -> '.join(cycle)}")
        downstreams: dict[str, list[str]] = {id_: [] for id_ in components}
        for id_, names in upstreams.items():
            for name in names:
                downstreams[name].append(id_)
        levels = _levels(upstreams, downstreams)
        ordered = sorted(components, key=levels.__getitem__)  # stable: file order within a level
        return cls(
            {
                id_: GraphNode(
                    id_, components[id_][0], components[id_][1].replicas, levels[id_], upstreams[id_], tuple(downstreams[id_])
                )
                for id_ in ordered
            }
        )

    @property
    def edges(self) -> list[Edge]:
        """Every edge, by upstream in topological order."""
        return [Edge(node.id, name) for node in self.nodes.values() for name in node.downstreams]

    @property
    def order(self) -> list[str]:
        """The ids with every component after all that feed it: the order in which to stop and drain."""
        return list(self.nodes)

    @property
    def levels(self) -> list[list[str]]:
        """The ids by level: the sources first, then what reads only from earlier levels, and so on."""
        levels: list[list[str]] = []
        for node in self.nodes.values():
            while len(levels) <= node.level:
                levels.append([])
            levels[node.level].append(node.id)
        return levels

    def upstream_of(self, component_id: str) -> set[str]:
        """The ids of everything that the component's events come from, directly or not."""
        return self._reach(component_id, lambda node: node.upstreams)

    def downstream_of(self, component_id: str) -> set[str]:
        """The ids of everything that the component's events reach, directly or not."""
        return self._reach(component_id, lambda node: node.downstreams)

    def _reach(self, start: str, neighbours: Callable[[GraphNode], tuple[str, ...]]) -> set[str]:
        seen: set[str] = set()
        todo = list(neighbours(self.nodes[start]))
        while todo:
            id_ = todo.pop()
            if id_ not in seen:
                seen.add(id_)
                todo.extend(neighbours(self.nodes[id_]))
        return seen


def find_cycle(upstreams: Mapping[str, Iterable[str]]) -> list[str] | None:
    """A cycle in the direction in which events would flow, its first id repeated at the end; None if there is none.

    Ids that appear only as someone's upstream are taken to have none themselves.
    """
    done: set[str] = set()
    for start in upstreams:
        if start in done:
            continue
        # depth first with a stack of its own: a thousand components in a row are more than Python's recursion allows
        way = [start]
        pending = [iter(upstreams[start])]
        on_way = {start}
        while way:
            following = next(pending[-1], None)
            if following is None:
                pending.pop()
                on_way.discard(way[-1])
                done.add(way.pop())
            elif following in on_way:
                return [following, *reversed(way[way.index(following) :])]
            elif following not in done:
                way.append(following)
                on_way.add(following)
                pending.append(iter(upstreams.get(following, ())))
    return None


def component_hash(component: Component) -> str:
    """What an instance was started from, as 32 hexadecimal digits: equal hashes need no replacement.

    Everything counts but ``replicas`` and the order of inputs and of mapping keys. Fields with their default value do not, so a
    version that adds a field changes no hash. The kind and the pipeline's ``driver`` stand outside the component: compare these
    beside the hash.
    """
    inputs: list[str | Input] = [*sorted(component.upstreams, key=_from)]
    canonical = _chosen(msgspec.structs.replace(component, replicas=1, inputs=inputs))
    return hashlib.sha256(msgspec.json.encode(canonical, order="deterministic")).hexdigest()[:32]


def _chosen(value: object) -> object:
    """A struct as a mapping of what differs from its defaults by value (``omit_defaults`` leaves out only the very default)."""
    if isinstance(value, list):
        return [_chosen(item) for item in cast("list[object]", value)]
    if not isinstance(value, msgspec.Struct):
        return value
    chosen: dict[str, object] = {}
    for field in _fields(type(value)):
        content: object = getattr(value, field.name)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if content != default:
            chosen[field.encode_name] = _chosen(content)
    return chosen


@lru_cache(maxsize=64)
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Reading the annotations of a struct takes longer than hashing it."""
    return msgspec.structs.fields(kind)


def _from(entry: Input) -> str:
    return entry.from_


def _levels(upstreams: Mapping[str, tuple[str, ...]], downstreams: Mapping[str, list[str]]) -> dict[str, int]:
    """Kahn's algorithm, keeping the longest way."""
    waiting = {id_: len(names) for id_, names in upstreams.items()}
    levels = dict.fromkeys(upstreams, 0)
    ready = [id_ for id_, count in waiting.items() if count == 0]
    for id_ in ready:
        for name in downstreams[id_]:
            levels[name] = max(levels[name], levels[id_] + 1)
            waiting[name] -= 1
            if waiting[name] == 0:
                ready.append(name)
    return levels
