"""What an unquoted YAML word is: the core schema of YAML 1.2, and what of it is refused because readers disagree.

``true`` and ``false`` alone are booleans; ``yes``, ``no``, ``on``, ``off``, ``12:30``, ``1_000`` and dates are strings. A number
with a leading zero (``010``: 8 to YAML 1.1, 10 to YAML 1.2), infinity, NaN and integers beyond 64 bits are refused.

Source: YAML 1.2.2, section 10.3.2.
"""

import math
import re
from typing import Final

import msgspec

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"\A[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"\A0o[0-7]+\Z")
_HEX = re.compile(r"\A0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"\A[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"\A([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")
_OLD_BOOL: Final = frozenset({"yes", "no", "on", "off", "y", "n"})
_MAX_DIGITS = 40


class Refused(msgspec.Struct, frozen=True):
    """A word that is a number to some readers and cannot be used as one here."""

    message: str
    hint: str | None = None


Scalar = None | bool | int | float | str


def resolve(word: str) -> Scalar | Refused:
    """The value of an unquoted word."""
    if word in _NULL:
        return None
    if word in _BOOL:
        return _BOOL[word]
    if word[0] not in "+-.0123456789":
        return word
    if _INT.match(word):
        digits = word.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0":
            number = digits.lstrip("0") or "0"
            return Refused("a number with a leading zero means different things to different YAML readers", f"write {number}")
        return _bounded(int(word) if len(word) <= _MAX_DIGITS else MAX_INT + 1)
    if _HEX.match(word) or _OCTAL.match(word):
        return _bounded(int(word, 0) if len(word) <= _MAX_DIGITS else MAX_INT + 1)
    if _NOT_FINITE.match(word):
        return Refused("infinity and NaN are not numbers that can be passed on")
    if _FLOAT.match(word):
        number = float(word)
        return number if math.isfinite(number) else Refused("the number is too large")
    return word


def was_boolean_once(word: str) -> bool:
    """Whether YAML 1.1 took the word for a boolean and YAML 1.2 does not."""
    return word.lower() in _OLD_BOOL


def _bounded(number: int) -> int | Refused:
    if MIN_INT <= number <= MAX_INT:
        return number
    return Refused("the number does not fit in 64 bits")
