"""From a file to a ``Pipeline``: the one way in, with every problem at once and the place of each."""

from pathlib import Path
from typing import Final

import msgspec

from flowctl.errors import InvalidSpecError, UserError
from flowctl.spec import problems as spec_problems
from flowctl.spec.checks import find_warnings, local_problems
from flowctl.spec.files import read_bounded, read_stdin
from flowctl.spec.model import Pipeline
from flowctl.spec.nodes import Lines, Node, Unreadable, decode, parse
from flowctl.spec.problems import MAX_PROBLEMS, Problem, printable
from flowctl.spec.structure import read_structure
from flowctl.spec.wiring import wiring_problems

MAX_FILE_BYTES: Final = 1024 * 1024


class Positions:
    """Where each part of a pipeline stands in the text that it was read from."""

    def __init__(self, name: str, lines: Lines, root: Node | None) -> None:
        self._name = name
        self._lines = lines
        self._root = root

    def place(self, path: spec_problems.Path, *, at_key: bool = False) -> str:
        """``pipeline.yaml:12:7`` of the value at a path, or of its key; of the nearest part above where the file is silent."""
        if self._root is None:
            return self._name
        node, index = self._root, self._root.index
        for number, step in enumerate(path):
            if isinstance(step, int):
                if node.kind != "list" or step >= len(node.items):
                    break
                node = node.items[step]
                index = node.index
            elif node.kind == "mapping" and step in node.entries:
                key_index, node = node.entries[step]
                index = key_index if at_key and number == len(path) - 1 else node.index
            else:
                break
        return self.place_of(index)

    def place_of(self, index: int) -> str:
        """``pipeline.yaml:12:7`` of a character."""
        line, column = self._lines.place(index)
        return f"{self._name}:{line}:{column}"

    def error(self, problem: Problem) -> UserError:
        """The problem as an error with its place."""
        if problem.index is not None:
            return problem.error(self.place_of(problem.index))
        return problem.error(self.place(problem.path, at_key=problem.at_key))

    def order(self, problem: Problem) -> tuple[int, int]:
        """A key that sorts problems as they stand in the file."""
        place = self.error(problem).place or ""
        parts = place.rsplit(":", 2)
        return (int(parts[1]), int(parts[2])) if len(parts) == 3 and parts[1].isdigit() else (0, 0)


class LoadedPipeline(msgspec.Struct, frozen=True):
    """A pipeline that can be obeyed. ``warnings`` are sentences with places about what is obeyed and probably not meant."""

    pipeline: Pipeline
    name: str
    warnings: list[UserError]
    positions: Positions


def load(path: Path) -> LoadedPipeline:
    """Read and check a pipeline file; ``-`` is standard input.

    Raises:
        InvalidSpecError: with every problem, in file order.
    """
    try:
        if str(path) == "-":
            return load_text(read_stdin(MAX_FILE_BYTES), "<stdin>")
        return load_text(read_bounded(path, MAX_FILE_BYTES), printable(str(path)))
    except InvalidSpecError:
        raise
    except UserError as error:
        raise InvalidSpecError([error]) from error


def load_text(text: str | bytes, name: str = "pipeline.yaml") -> LoadedPipeline:
    """Check the text of a pipeline file; ``name`` stands in the places.

    Raises:
        InvalidSpecError: with every problem, in file order.
    """
    # a text that was decoded elsewhere passes the same bounds as a file
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(content) > MAX_FILE_BYTES:
        raise InvalidSpecError([UserError(f"the file is larger than {MAX_FILE_BYTES:,} bytes", place=name)])
    decoded = ""
    try:
        decoded = decode(content)
        lines = Lines(decoded)
        root, problems = parse(decoded, lines)
    except Unreadable as unreadable:
        before = decoded or content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
        raise InvalidSpecError([Positions(name, Lines(before), None).error(unreadable.problem)]) from None
    positions = Positions(name, lines, root)
    reading = read_structure(root)
    problems = [*problems, *reading.problems]
    problems += _semantic_problems(reading.pipeline, problems)
    if problems:
        raise InvalidSpecError(_errors(problems, positions))
    warnings = sorted([*reading.warnings, *find_warnings(reading.pipeline)], key=positions.order)
    return LoadedPipeline(reading.pipeline, name, [positions.error(warning) for warning in warnings], positions)


def _semantic_problems(pipeline: Pipeline, structural: list[Problem]) -> list[Problem]:
    """What is also wrong, leaving out what may only follow from what could not be read."""
    unread = {problem.path for problem in structural}
    above = {path[:length] for path in unread for length in range(len(path) + 1)}
    found = local_problems(pipeline)
    if not any(_concerns_graph(problem) for problem in structural):
        found += wiring_problems(pipeline)
    # a problem at or above an unread value may be caused by the placeholder that stands there
    return [p for p in found if p.path not in above and not any(p.path[:n] in unread for n in range(len(p.path) + 1))]


def _concerns_graph(problem: Problem) -> bool:
    path = problem.path
    if len(path) < 4 or path[0] != "spec":
        return path[:1] != ("metadata",)
    return path[3] in {"id", "inputs"} or (problem.at_key and len(path) == 4 and not _means_another_field(problem))


def _means_another_field(problem: Problem) -> bool:
    """Whether an unknown field is certainly not a misspelt ``id`` or ``inputs``."""
    hint = problem.hint or ""
    return hint.startswith("did you mean") and '"id"' not in hint and '"inputs"' not in hint


def _errors(problems: list[Problem], positions: Positions) -> list[UserError]:
    shown = sorted(problems, key=positions.order)[:MAX_PROBLEMS]
    errors = [positions.error(problem) for problem in shown]
    if len(problems) > MAX_PROBLEMS:
        errors.append(UserError(f"and {len(problems) - MAX_PROBLEMS:,} more problems", place=positions.place(())))
    return errors
