"""What is wrong with a pipeline, as data: where (a path), what was found, what was expected, and the way out."""

import difflib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from flowctl.errors import UserError

MAX_PROBLEMS: Final = 100

Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"\A[A-Za-z0-9_-]+\Z")


class Problem(msgspec.Struct, frozen=True):
    """One thing that cannot be obeyed.

    ``path`` leads to it from the top of the file: ``("spec", "processors", 0, "inputs", 1)``. ``message`` says what was found
    and what was expected, ``hint`` the way out. ``index`` is the character of the text where it stands, when the problem was
    found while reading a text; ``at_key`` says that the key is meant, not its value.
    """

    path: Path
    message: str
    hint: str | None = None
    index: int | None = None
    at_key: bool = False

    @property
    def sentence(self) -> str:
        """The message with the path before it."""
        return f"{render_path(self.path)}: {self.message}" if self.path else self.message

    def error(self, place: str | None = None) -> UserError:
        """This problem as an error to show: on one line, and safe for a terminal whatever the file holds."""
        return UserError(printable(self.sentence), place=place, hint=None if self.hint is None else printable(self.hint))


def render_path(path: Path) -> str:
    """``spec.processors[0].inputs[1]``; keys that are no plain words appear as ``env["A B"]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.match(step):
            text += f".{step}" if text else step
        else:
            text += f"[{quoted(step)}]"
    return text


def quoted(text: str, limit: int = 60) -> str:
    """The text in double quotes on one line, shortened: safe to print whatever it holds."""
    shown = text if len(text) <= limit else f"{text[:limit]}…"
    return '"' + printable(shown.replace('"', r"\"")) + '"'


def printable(text: str) -> str:
    """The text with everything that a terminal might obey or break a line at written as an escape."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return {"\n": r"\n", "\t": r"\t", "\r": r"\r"}.get(character, f"\\u{ord(character):04x}")


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """``did you mean "inputs"?`` when one of the known words is near, else None."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {quoted(by_lower[near[0]])}?" if near else None


def one_of(words: Iterable[str]) -> str:
    """``a, b or c``."""
    listed = list(words)
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} or {listed[-1]}"
