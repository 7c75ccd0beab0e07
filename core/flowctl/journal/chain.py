"""Drafts made ready to be stored: checked, encoded, each carrying the hash of its predecessor. Pure; both journals use it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from flowctl.errors import RefusedError
from flowctl.ids import InstanceId, check_id
from flowctl.journal import codec, subjects
from flowctl.journal.events import Aggregate
from flowctl.journal.log import Draft, Head

MAX_DRAFTS: Final = 500


class Link(msgspec.Struct, frozen=True):
    """One encoded draft of a chain."""

    aggregate: Aggregate
    id: str
    stored: codec.Stored


def check_drafts(drafts: Sequence[Draft]) -> None:
    """Refuse what could not be read back: foreign ids (a ``*`` would be stored, as a subject token), foreign kinds, too many.

    Raises:
        InvalidIdError: a part of an aggregate's key is not an id.
        RefusedError: more than ``MAX_DRAFTS``.
        ValueError: an event does not belong to its aggregate's kind.
    """
    if len(drafts) > MAX_DRAFTS:
        raise RefusedError(f"{len(drafts)} entries are too many to append at once, at most {MAX_DRAFTS} are allowed")
    for draft in drafts:
        key = draft.aggregate.key
        if subjects.TOKENS[type(draft.event)][0] != draft.aggregate.kind:
            raise ValueError(f"{type(draft.event).__name__} does not belong to {draft.aggregate}")
        if draft.aggregate.kind == "component":
            if len(key) != 3 or str(InstanceId.checked(*key)) != ".".join(key):
                raise ValueError(f"{draft.aggregate} is not an instance")
        elif len(key) != 1 or not check_id(key[0], draft.aggregate.kind):
            raise ValueError(f"{draft.aggregate} does not name a {draft.aggregate.kind}")


def link(
    drafts: Sequence[Draft],
    heads: Mapping[Aggregate, Head],
    *,
    actor: str,
    correlation: str,
    new_id: Callable[[], str],
    wall_ns: int,
) -> list[Link]:
    """The drafts encoded in order, chained on to ``heads``.

    Raises:
        RefusedError: one of them is larger than ``codec.MAX_ENTRY_BYTES``.
    """
    hashes = {aggregate: head.hash for aggregate, head in heads.items()}
    links: list[Link] = []
    for draft in drafts:
        stored = codec.encode(
            draft,
            entry_id=new_id(),
            actor=_header_value(actor),
            correlation=_header_value(correlation),
            previous_hash=hashes[draft.aggregate],
            wall_ns=wall_ns,
        )
        if len(stored.data) > codec.MAX_ENTRY_BYTES:
            raise RefusedError(
                f"{type(draft.event).__name__} of {draft.aggregate} takes {len(stored.data)} bytes,"
                f" at most {codec.MAX_ENTRY_BYTES} are allowed"
            )
        hashes[draft.aggregate] = stored.hash
        links.append(Link(draft.aggregate, stored.headers[subjects.CE_ID], stored))
    return links


def _header_value(text: str) -> str:
    """What survives as a header unchanged: outer space and line breaks do not, and the hash covers the value."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
