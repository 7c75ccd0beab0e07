"""The ready-made components: what ``type:`` may say."""

from typing import Final

import msgspec

from flowctl.spec.model import Kind


class ReadyMade(msgspec.Struct, frozen=True):
    """One ready-made component: ``summaries`` has a line for each kind that it can be."""

    name: str
    summaries: dict[Kind, str]

    @property
    def module(self) -> str:
        """The Python module that runs it, told its kind by ``FLOWCTL_COMPONENT_KIND``."""
        return f"flowctl_components.{self.name}"


_ALL: Final = (
    ReadyMade("generator", {"source": "made-up events, as many and as fast as wanted (count, rate, template)"}),
    ReadyMade(
        "file",
        {
            "source": "the lines of a file (path, format: lines, json or csv, follow)",
            "sink": "JSON lines in a file, rotated (path, rotate_bytes)",
        },
    ),
    ReadyMade("filter", {"processor": "keeps the events for which a JMESPath is true (where)"}),
    ReadyMade("map", {"processor": "makes a new payload of each event with a JMESPath (select)"}),
    ReadyMade("exec", {"processor": "any program that reads JSON lines and writes JSON lines (command)"}),
    ReadyMade("console", {"sink": "prints the events on standard output"}),
    ReadyMade("http", {"sink": "sends the events to a web address (url)"}),
)

CATALOG: Final[dict[str, ReadyMade]] = {entry.name: entry for entry in _ALL}


def names_of(kind: Kind) -> list[str]:
    """The types that a component of this kind may have."""
    return [entry.name for entry in _ALL if kind in entry.summaries]
