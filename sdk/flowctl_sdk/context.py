"""What flowctl tells a component about itself."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import msgspec

from flowctl.ids import InstanceId

_COUNTER = re.compile(r"\A[a-z0-9_]{1,63}\Z")


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a source's events are safely in every sink: the last such ``position``, and the source's own ``cursor`` there."""

    position: int
    cursor: bytes = b""


class Context:
    """Given to every component when it opens.

    Attributes:
        config: the component's ``config`` of the pipeline file, references resolved.
        instance: which copy of which component this is.
        incarnation: the number of this start of it.
        checkpoint: a source's last committed checkpoint; None at the first start, and for processors and sinks.
        log: write here; lines carry the instance's name.
        stopping: set when the component is asked to stop.
        counters: the author's counters, as shown in heartbeats and ``/metrics``.
    """

    def __init__(
        self,
        *,
        config: dict[str, Any],
        instance: InstanceId,
        state_dir: Path,
        incarnation: int = 1,
        checkpoint: Checkpoint | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.config = config
        self.instance = instance
        self.incarnation = incarnation
        self.checkpoint = checkpoint
        self._state_dir = state_dir
        self.log = log or logging.getLogger("flowctl.component")
        self.stopping = asyncio.Event()
        self.counters: dict[str, float] = {}

    @property
    def state_dir(self) -> Path:
        """A private directory that survives restarts of the instance; made when first asked for."""
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._state_dir

    @property
    def resume_at(self) -> int:
        """The first position that is not yet safe in every sink: 0 at the first start."""
        return 0 if self.checkpoint is None else self.checkpoint.position + 1

    def counter(self, name: str, value: float = 1) -> None:
        """Add to a counter of the author's own, at most 32 of them; names are lower-case letters, digits and ``_``.

        Raises:
            ValueError: if the name is not such, or is the 33rd.
        """
        if name not in self.counters:
            if not _COUNTER.match(name):
                raise ValueError(
                    f"{name[:80]!r} is not a counter name: lower-case letters, digits and '_', at most 63 characters"
                )
            if len(self.counters) >= 32:
                raise ValueError("a component has at most 32 counters of its own")
        self.counters[name] = self.counters.get(name, 0) + value
