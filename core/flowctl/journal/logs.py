"""What instances print, and the Protocol of its stream."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from flowctl.ids import InstanceId


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an instance's output. ``stream`` is ``stdout`` or ``stderr``; ``id`` is unique to the line."""

    instance: InstanceId
    incarnation: int
    stream: str
    text: str
    time_ns: int
    id: str = ""


class Logs(Protocol):
    """The output of instances, kept while there is room."""

    async def publish(self, lines: Sequence[LogLine]) -> None:
        """Store all of them; a line whose ``id`` is stored already is not stored again.

        Raises:
            JournalUnavailableError: some may not have been stored.
        """
        ...

    def read(
        self,
        pipeline: str,
        *,
        component: str | None = None,
        index: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """Stored lines in order (the last ``tail`` if given), then with ``follow`` every new one.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...
