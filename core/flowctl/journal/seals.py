"""The digest of a whole journal: what one value says of every entry up to a sequence. Pure.

An entry's own hash fixes its aggregate's past. The digest runs over all entries in their order and over their times, so it also
fixes what no chain does: which entries there are, in what order, and when each was stored.
"""

import hashlib
from typing import Final

NOTHING: Final = ""
"""The digest of a journal without entries."""


def advance(digest: str, entry_hash: str, time_ns: int) -> str:
    """The digest after one more entry: SHA-256 (hex) over the digest before it, the entry's hash and its time, as text.

    ``time_ns`` is the server's time of the entry, Unix nanoseconds, in decimal digits.
    """
    return hashlib.sha256(f"{digest}{entry_hash}{time_ns}".encode()).hexdigest()
