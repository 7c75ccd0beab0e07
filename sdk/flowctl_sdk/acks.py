"""Which inputs are done: an input is, when everything derived from it is; and they are reported in order.

Bookkeeping is per batch. Whoever takes a batch in opens a ``Pending``; every piece of output that still has to be acknowledged
somewhere holds it; the last one to let go completes it.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar, cast

SPARE: Final = 32
"""So many batches that are done behind open ones are not worth merging."""

T = TypeVar("T")


class Held(Protocol):
    """What a piece of output keeps open until it is acknowledged."""

    def hold(self) -> None:
        """One more piece of output has to be acknowledged."""
        ...

    def release(self) -> None:
        """A piece of output is acknowledged."""
        ...


class Pending(Generic[T]):
    """A batch of inputs with the number of its ``holds``. Opened with one hold, the opener's own."""

    __slots__ = ("_log", "holds", "token")

    def __init__(self, log: "AckLog[T]", token: T) -> None:
        self._log = log
        self.holds = 1
        self.token = token

    def hold(self) -> None:
        """One more piece of output has to be acknowledged."""
        self.holds += 1

    def release(self) -> None:
        """A piece of output is acknowledged."""
        self.holds -= 1
        if self.holds == 0:
            self._log.settle()

    def split(self, last: int) -> "Pending[T]":
        """The hold on all but the last so many inputs, as one of its own; this one keeps those. Tokens must be numbers."""
        return self._log.insert(self, cast("T", cast("int", self.token) - last))


class AckLog(Generic[T]):
    """The batches taken in and not yet done, oldest first.

    ``advanced(token)`` is called with the token of the newest batch up to which, in order, all are done. Batches that are done
    and wait for an older one are merged, so that the log grows with what is open only: to three times as many, and a few.
    """

    def __init__(self, advanced: Callable[[T], None]) -> None:
        self._advanced = advanced
        self._open: deque[Pending[T]] = deque()
        # How many of these are done.
        self._done = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, token: T) -> Pending[T]:
        """Take a batch in."""
        pending = Pending(self, token)
        self._open.append(pending)
        return pending

    def insert(self, before: Pending[T], token: T) -> Pending[T]:
        """Take in, just before a batch that is not done, what was its beginning."""
        pending = Pending(self, token)
        self._open.insert(self._open.index(before), pending)
        return pending

    def settle(self) -> None:
        """One more batch is done: report how far everything is."""
        self._done += 1
        done: Pending[T] | None = None
        while self._open and self._open[0].holds == 0:
            done = self._open.popleft()
            self._done -= 1
        if done is not None:
            self._advanced(done.token)
        if self._done > 2 * (len(self._open) - self._done) + SPARE:
            self._merge()

    def _merge(self) -> None:
        """Of neighbours that are done keep the last: its token says it for all. At most one is left behind each open batch.

        It goes over the whole log, but not again before a third as many batches are done.
        """
        kept: deque[Pending[T]] = deque()
        for pending in self._open:
            if kept and pending.holds == kept[-1].holds == 0:
                kept[-1] = pending
            else:
                kept.append(pending)
        self._open = kept
        self._done = sum(pending.holds == 0 for pending in kept)
