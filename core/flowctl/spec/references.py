"""``${env:NAME}``, ``${env:NAME:-default}`` and ``${file:path}``: values that are filled in where the component starts.

They may stand in the values of ``config``, at any depth, and of ``env``, alone or within a text. ``$${`` is a literal ``${``.
As in a shell, the default counts when the variable is missing or empty; it ends at the first ``}``. What was filled in is not
looked at again. A file gives its text without one trailing line break; a relative path is for the caller's ``read_file`` to
place.

Pure: the environment and the files come as arguments. What is resolved is a secret: it must never be logged or stored.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, TypeVar, cast

import msgspec

from flowctl.errors import InvalidSpecError, UserError
from flowctl.spec.problems import Path, Problem, quoted

_Json = TypeVar("_Json")

MAX_FILE_CHARACTERS: Final = 256 * 1024

_OPENING = re.compile(r"\$?\$\{")
_BODY = re.compile(r"\$\{([^}\n]*)\}")
_ENV = re.compile(r"\Aenv:([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)
_FILE = re.compile(r"\Afile:([^\0]+)\Z")
_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z")
_CERTAIN = re.compile(r"(?<!\$)\$\{(env|file):[^}]*\}")


class Reference(msgspec.Struct, frozen=True):
    """One reference: ``name`` is a variable's name or a file's path."""

    kind: Literal["env", "file"]
    name: str
    default: str | None = None


class Malformed(msgspec.Struct, frozen=True):
    """A ``${`` that starts no reference."""

    text: str
    hint: str


Piece = str | Reference | Malformed


def find(text: str) -> list[Piece]:
    """The text in pieces: literal text (``$${`` already turned into ``${``), references, and what looks like one and is none."""
    pieces: list[Piece] = []
    position = 0
    for match in _OPENING.finditer(text):
        if match.start() < position:
            continue
        pieces.append(text[position : match.start()])
        if match[0] == "$${":
            pieces.append("${")
            position = match.end()
            continue
        body = _BODY.match(text, match.start())
        if body is None:
            pieces.append(Malformed(text[match.start() :], 'close it with "}", or write $${ for a literal ${'))
            return pieces
        pieces.append(_parse(body[1]))
        position = body.end()
    pieces.append(text[position:])
    return [piece for piece in pieces if piece != ""]


def has_reference(text: str) -> bool:
    """Whether a text holds ``${env:…}`` or ``${file:…}``, to refuse it where none is allowed."""
    return _CERTAIN.search(text) is not None


def check(value: object, path: Path) -> list[Problem]:
    """What is wrong with the references in a value of ``config`` or ``env``: a JSON value of any depth, found at ``path``."""
    problems: list[Problem] = []
    for where, text in _texts(value, path):
        if "${" not in text:
            continue
        for piece in find(text):
            if isinstance(piece, Malformed):
                message = f"found {quoted(piece.text)}, expected ${{env:NAME}}, ${{env:NAME:-default}} or ${{file:path}}"
                problems.append(Problem(where, message, piece.hint))
    return problems


def resolve(
    value: _Json,
    env: Mapping[str, str],
    read_file: Callable[[str], str],
    path: Path = ("config",),
    *,
    filled: set[str] | None = None,
) -> _Json:
    """The value, a JSON value of any depth, with every reference filled in.

    Args:
        value: what the file says; it is not changed.
        env: the environment of the host on which the component starts.
        read_file: the text of the file at a path; may raise ``OSError``, ``UnicodeDecodeError`` or ``UserError``.
        path: where the value stands, for the messages.
        filled: receives every text that was filled in from a variable or a file, to keep it out of logs.

    Raises:
        InvalidSpecError: with every variable and file that is missing; the messages hold names, never contents.
    """
    resolver = _Resolver(env, read_file)
    resolved = resolver.value(value, path)
    if resolver.problems:
        raise InvalidSpecError([problem.error() for problem in resolver.problems])
    if filled is not None:
        filled |= resolver.filled
    return cast("_Json", resolved)


class _Resolver:
    def __init__(self, env: Mapping[str, str], read_file: Callable[[str], str]) -> None:
        self._env = env
        self._read_file = read_file
        self.problems: list[Problem] = []
        self.filled: set[str] = set()

    def value(self, value: object, path: Path) -> object:
        match value:
            case str():
                return "".join(self._piece(piece, path) for piece in find(value)) if "${" in value else value
            case dict():
                return {key: self.value(item, (*path, key)) for key, item in cast("dict[str, object]", value).items()}
            case list():
                return [self.value(item, (*path, index)) for index, item in enumerate(cast("list[object]", value))]
            case _:
                return value

    def _piece(self, piece: Piece, path: Path) -> str:
        match piece:
            case str():
                return piece
            case Malformed():
                self.problems.append(Problem(path, f"{quoted(piece.text)} is not a reference", piece.hint))
                return ""
            case Reference(kind="env"):
                text = self._variable(piece, path)
            case Reference():
                text = self._file(piece, path)
        if text != piece.default:  # what the file of the pipeline says is no secret
            self.filled.add(text)
        return text

    def _variable(self, reference: Reference, path: Path) -> str:
        value = self._env.get(reference.name)
        if reference.default is not None:
            return value or reference.default
        if value is None:
            hint = f"set it where the component starts, or write ${{env:{reference.name}:-default}}"
            self.problems.append(Problem(path, f"the environment variable {reference.name} is not set on this host", hint))
            return ""
        return value

    def _file(self, reference: Reference, path: Path) -> str:
        name = quoted(reference.name, 200)
        try:
            text = self._read_file(reference.name)
        except UserError as error:
            return self._unreadable(path, f"the file {name}: {error.message}")
        except UnicodeDecodeError:
            return self._unreadable(path, f"the file {name} is not UTF-8")
        except OSError as error:
            return self._unreadable(path, f"the file {name} cannot be read on this host: {error.strerror or error}")
        if len(text) > MAX_FILE_CHARACTERS:
            return self._unreadable(path, f"the file {name} is longer than {MAX_FILE_CHARACTERS:,} characters")
        if "\0" in text:
            return self._unreadable(path, f"the file {name} holds a NUL character")
        return text.removesuffix("\n").removesuffix("\r")

    def _unreadable(self, path: Path, message: str) -> str:
        self.problems.append(Problem(path, message))
        return ""


def _parse(body: str) -> Reference | Malformed:
    env = _ENV.match(body)
    if env:
        return Reference("env", env[1], env[2])
    file = _FILE.match(body)
    if file:
        return Reference("file", file[1])
    variable = body.partition(":-")[0]
    hint = (
        f"did you mean ${{env:{body}}}? Write $${{ for a literal ${{" if _NAME.match(variable) else "write $${ for a literal ${"
    )
    return Malformed(f"${{{body}}}", hint)


def _texts(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    match value:
        case str():
            yield path, value
        case dict():
            for key, item in cast("dict[str, object]", value).items():
                yield from _texts(item, (*path, key))
        case list():
            for index, item in enumerate(cast("list[object]", value)):
                yield from _texts(item, (*path, index))
        case _:
            return
