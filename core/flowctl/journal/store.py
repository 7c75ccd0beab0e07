"""Everything that is stored, over one connection."""

from typing import Protocol

from flowctl.journal.heartbeats import Heartbeats
from flowctl.journal.letters import DeadLetters
from flowctl.journal.log import Journal
from flowctl.journal.logs import Logs
from flowctl.journal.notices import Notices
from flowctl.journal.snapshots import Snapshots
from flowctl.journal.subscriptions import Subscriptions


class Store(Protocol):
    """One connection to everything that is stored."""

    @property
    def journal(self) -> Journal:
        """The log of facts."""
        ...

    @property
    def heartbeats(self) -> Heartbeats:
        """The signs of life."""
        ...

    @property
    def logs(self) -> Logs:
        """The output of instances."""
        ...

    @property
    def dead_letters(self) -> DeadLetters:
        """The events that components gave up on."""
        ...

    @property
    def snapshots(self) -> Snapshots:
        """States of the fold to begin from."""
        ...

    @property
    def subscriptions(self) -> Subscriptions:
        """The durable readings of the journal."""
        ...

    @property
    def notices(self) -> Notices:
        """The notices that nobody took."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the server answers, as far as is known."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...
