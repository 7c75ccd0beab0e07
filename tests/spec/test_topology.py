"""The graph: order, levels, reach, drawings, what makes a component the same, and which replica a key goes to."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.drawing import to_dot, to_mermaid, to_text
from flowctl.errors import UserError
from flowctl.partition import PartitionBy, key_bytes, partition
from flowctl.spec.model import Component, Input, Metadata, Pipeline, Restart, Spec
from flowctl.topology import Edge, Graph, component_hash, find_cycle


def pipeline(edges: str) -> Pipeline:
    """``"a>m m>z"``: who has no input is a source, who has no reader a sink."""
    pairs = [tuple(edge.split(">")) for edge in edges.split()]
    ids = list(dict.fromkeys(id_ for pair in pairs for id_ in pair))
    parts = {id_: Component(id=id_, command=["x"], inputs=[up for up, down in pairs if down == id_]) for id_ in ids}
    writers = {up for up, _ in pairs}
    return Pipeline(
        api_version="flowctl/v1",
        kind="Pipeline",
        metadata=Metadata(name="p"),
        spec=Spec(
            sources=[part for part in parts.values() if not part.inputs],
            processors=[part for part in parts.values() if part.inputs and part.id in writers],
            sinks=[part for part in parts.values() if part.id not in writers],
        ),
    )


DRAWINGS = {
    "a>m m>z": """\
┌───┐   ┌───┐   ┌───┐
│ a ├──▶│ m ├──▶│ z │
└───┘   └───┘   └───┘
""",
    "a>y a>z": """\
┌───┐     ┌───┐
│ a ├─┬──▶│ y │
└───┘ │   └───┘
      │   ┌───┐
      └──▶│ z │
          └───┘
""",
    "a>z b>z": """\
┌───┐     ┌───┐
│ a ├─┬──▶│ z │
└───┘ │   └───┘
┌───┐ │
│ b ├─┘
└───┘
""",
    "a>m a>n m>z n>z": """\
┌───┐     ┌───┐     ┌───┐
│ a ├─┬──▶│ m ├─┬──▶│ z │
└───┘ │   └───┘ │   └───┘
      │   ┌───┐ │
      └──▶│ n ├─┘
          └───┘
""",
    "a>m m>n n>z a>z": """\
┌───┐     ┌───┐   ┌───┐     ┌───┐
│ a ├─┬──▶│ m ├──▶│ n ├─┬──▶│ z │
└───┘ │   └───┘   └───┘ │   └───┘
      │                 │
      └─────────────────┘
""",
}


@pytest.mark.parametrize("edges", DRAWINGS)
def test_drawings(edges: str):
    """Linear, fan-out, fan-in, diamond, and an edge past others."""
    graph = Graph.of(pipeline(edges))
    assert to_text(graph) == DRAWINGS[edges]
    assert to_text(graph, ascii_only=True).isascii()


def test_what_does_not_fit_is_listed():
    """A narrow terminal, and a graph whose lines would be read wrongly."""
    assert to_text(Graph.of(pipeline("a>m m>z")), width=10) == "a ─▶ m\nm ─▶ z\nz\n"
    assert to_text(Graph.of(pipeline("a>y b>z c>z b>y c>x"))) == "a ─▶ y\nb ─▶ z, y\nc ─▶ z, x\ny\nz\nx\n".replace(
        "b ─▶ z, y", "b ─▶ y, z"
    )


EDGE_SETS = st.sets(
    st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] < pair[1]), min_size=1, max_size=9
)


@given(EDGE_SETS)
def test_a_drawing_shows_exactly_the_edges(pairs: set[tuple[int, int]]):
    """Followed with a finger from each box to the right, the lines lead to its readers and nowhere else."""
    graph = Graph.of(pipeline(" ".join(f"n{a}>n{b}" for a, b in sorted(pairs))))
    text = to_text(graph)
    if "┌" in text:
        assert traced(text) == {(edge.upstream, edge.downstream) for edge in graph.edges}


RIGHT, LEFT, UP, DOWN = (1, 0), (-1, 0), (0, -1), (0, 1)
OPEN = {
    "─": {LEFT, RIGHT},
    "│": {UP, DOWN},
    "┌": {DOWN, RIGHT},
    "┐": {DOWN, LEFT},
    "└": {UP, RIGHT},
    "┘": {UP, LEFT},
    "├": {UP, DOWN, RIGHT},
    "┤": {UP, DOWN, LEFT},
    "┬": {LEFT, RIGHT, DOWN},
    "┴": {LEFT, RIGHT, UP},
    "┼": {LEFT, RIGHT, UP, DOWN},
}


def traced(text: str) -> set[tuple[str, str]]:
    """The edges that a reader of the drawing sees, never going left."""
    cells = {(x, y): c for y, line in enumerate(text.splitlines()) for x, c in enumerate(line)}

    def name(x: int, y: int, step: int) -> str:
        word = ""
        while (character := cells[x, y]) not in "│├":
            word += character
            x += step
        return (word if step > 0 else word[::-1]).strip()

    found: set[tuple[str, str]] = set()
    for (x, y), character in cells.items():
        if character != "├" or not cells.get((x - 2, y), " ").isalnum():
            continue
        writer, todo, seen = name(x - 1, y, -1), [(x + 1, y, RIGHT)], set[tuple[int, int, tuple[int, int]]]()
        while todo:
            at = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            px, py, going = at
            here = cells.get((px, py), " ")
            if here == "▶":
                if cells.get((px + 1, py)) == "│":
                    found.add((writer, name(px + 2, py, 1)))
                continue
            if here == "│" and going == RIGHT:  # under it
                todo.append((px + 1, py, RIGHT))
                continue
            back = (-going[0], -going[1])
            assert back in OPEN[here], text
            todo += [(px + dx, py + dy, (dx, dy)) for dx, dy in OPEN[here] - {back, LEFT}]
    return found


@given(EDGE_SETS)
def test_order_levels_and_reach(pairs: set[tuple[int, int]]):
    """Every component comes after all that feed it, one level above the highest of them."""
    graph = Graph.of(pipeline(" ".join(f"n{a}>n{b}" for a, b in sorted(pairs))))
    for edge in graph.edges:
        assert graph.order.index(edge.upstream) < graph.order.index(edge.downstream)
        assert edge.downstream in graph.downstream_of(edge.upstream)
        assert edge.upstream in graph.upstream_of(edge.downstream)
    for node in graph.nodes.values():
        assert node.level == max((graph.nodes[up].level + 1 for up in node.upstreams), default=0)
        assert node.id in graph.levels[node.level]
        assert node.id not in graph.upstream_of(node.id)
    assert {(f"n{a}", f"n{b}") for a, b in pairs} == {(edge.upstream, edge.downstream) for edge in graph.edges}


def test_a_long_chain_is_no_recursion():
    """A thousand components in a row."""
    graph = Graph.of(pipeline(" ".join(f"n{n}>n{n + 1}" for n in range(999))))
    assert len(graph.levels) == 1_000
    assert find_cycle({str(n): [str(n + 1)] for n in range(5_000)}) is None


def test_cycles_and_strangers_are_refused_by_name():
    """Who skipped the checks is told the same."""
    with pytest.raises(UserError, match="has a cycle: b -> c -> b"):
        Graph.of(pipeline("a>b b>c c>b c>z"))
    broken = msgspec.structs.replace(pipeline("a>z").spec, sinks=[Component(id="z", command=["x"], inputs=["q"])])
    with pytest.raises(UserError, match="no component 'q'"):
        Graph.of(msgspec.structs.replace(pipeline("a>z"), spec=broken))
    assert find_cycle({"a": ["a"]}) == ["a", "a"]


def test_mermaid_and_dot():
    """For documents and Graphviz."""
    graph = Graph.of(pipeline("a>m m>z"))
    assert to_mermaid(graph) == ('flowchart LR\n  n0(["a"])\n  n1["m"]\n  n2[("z")]\n  n0 --> n1\n  n1 --> n2\n')
    assert '"a" -> "m";' in to_dot(graph)
    assert graph.edges == [Edge("a", "m"), Edge("m", "z")]


def test_a_component_is_the_same_but_for_its_replicas():
    """What needs a replacement changes the hash; what does not, does not."""
    base = Component(id="m", command=["x"], inputs=["a", "b"], config={"k": 1, "l": 2}, env={"A": "b"})
    replace = msgspec.structs.replace
    same = [
        replace(base, replicas=5),
        replace(base, inputs=["b", "a"]),
        replace(base, inputs=[Input(from_="a"), "b"]),
        replace(base, config={"l": 2, "k": 1}),
        replace(base, restart=Restart()),
    ]
    assert {component_hash(component) for component in same} == {component_hash(base)}
    other = [
        replace(base, command=["y"]),
        replace(base, inputs=["a"]),
        replace(base, config={"k": 1}),
        replace(base, env={"A": "c"}),
        replace(base, stop_timeout_s=1),
        replace(base, restart=Restart(max_attempts=1)),
        replace(base, inputs=["a", Input(from_="b", when_full="drop")]),
    ]
    assert len({component_hash(component) for component in [base, *other]}) == len(other) + 1
    assert component_hash(Component(id="a", command=["x"])) == "da18b6be2c6caf21becd75a107967f88"


@pytest.mark.parametrize(
    ("key", "of_2", "of_3", "of_1000"),
    [(b"", 0, 0, 0), (b"123456789", 0, 2, 262), (b"a", 1, 0, 907), (b"oslo", 0, 0, 874), ("\u00e9".encode(), 0, 2, 326)],
)
def test_vectors_of_the_partition(key: bytes, of_2: int, of_3: int, of_1000: int):
    """Other languages compute the same: CRC-32/ISO-HDLC, unsigned, modulo."""
    assert (partition(key, 2), partition(key, 3), partition(key, 1_000)) == (of_2, of_3, of_1000)


def test_keys_are_shared_out_evenly():
    """Counting numbers, the commonest keys, are within a few per cent of even."""
    for replicas in (2, 3, 7, 8):
        counts = [0] * replicas
        for number in range(20_000):
            counts[partition(b"customer-%d" % number, replicas)] += 1
        assert max(counts) < 1.1 * min(counts)


def test_partition_by_and_keys_of_json_values():
    """The definition of the key."""
    assert PartitionBy.parse("payload.a.b") == PartitionBy("payload", "a.b")
    assert PartitionBy.parse("metadata.x.y") == PartitionBy("metadata", "x.y")
    assert PartitionBy.parse("id") == PartitionBy("id")
    for wrong in ("", "key", "id.x", "type.", "payload.", "metadata", "metadata. "):
        with pytest.raises(UserError, match="expected id, type, payload"):
            PartitionBy.parse(wrong)
    values: list[object] = [None, "é", 1, 1.5, True, {"b": 1, "a": [2, None]}]
    assert [key_bytes(value) for value in values] == [b"", "é".encode(), b"1", b"1.5", b"true", b'{"a":[2,null],"b":1}']
