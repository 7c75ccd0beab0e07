"""The ready-made components: what ``type:`` may say."""

from typing import Final

import msgspec

from flowctl.spec.model import Kind


class ReadyMade(msgspec.Struct, frozen=True):
    """One ready-made component: a line for each kind that it can be; the kinds in ``one_reader`` allow one replica only."""

    name: str
    summaries: dict[Kind, str]
    one_reader: tuple[Kind, ...] = ()

    def module_of(self, kind: Kind) -> str:
        """The Python module that runs it as a component of this kind, with ``python -m``."""
        suffix = f"_{kind}" if len(self.summaries) > 1 else ""
        return f"flowctl_components.{self.name}{suffix}"


_ALL: Final = (
    ReadyMade("generator", {"source": "made-up events, as many and as fast as wanted"}),
    ReadyMade(
        "file",
        {"source": "the lines, JSON lines or CSV rows of a file, once or as it grows", "sink": "JSON lines in a file, rotated"},
        one_reader=("source",),
    ),
    ReadyMade("filter", {"processor": "keeps the events for which a JMESPath is true"}),
    ReadyMade("map", {"processor": "makes another payload of each event with a JMESPath"}),
    ReadyMade("exec", {"processor": "any program that reads lines and writes lines"}),
    ReadyMade("sqlite", {"sink": "rows in a SQLite table, each event once"}),
    ReadyMade("console", {"sink": "prints the events on standard output"}),
    ReadyMade("http", {"sink": "posts the events to a URL"}),
)

CATALOG: Final[dict[str, ReadyMade]] = {entry.name: entry for entry in _ALL}


def names_of(kind: Kind) -> list[str]:
    """The types that a component of this kind may have."""
    return [entry.name for entry in _ALL if kind in entry.summaries]
