"""What a pure decision returns: drafts to append, or a refusal that says why."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from flowctl.journal.log import Draft

Refusal = Literal["not_found", "invalid", "precondition", "superseded", "exists"]


class Rejected(msgspec.Struct, frozen=True):
    """A request that today's state does not allow: one sentence, and the way out where there is one."""

    refusal: Refusal
    message: str
    hint: str | None = None


Decision = Sequence[Draft] | Rejected
