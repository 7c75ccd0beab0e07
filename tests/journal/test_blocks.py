"""The short way from a stored header block to an entry gives what the long way gives, or steps aside."""

from hypothesis import example, given
from hypothesis import strategies as st

from flowctl.journal import chain, codec
from flowctl.journal.jetstream.messages import parse_headers
from flowctl.journal.log import Draft, Head
from support.journals import ORDERS, running, starting, stop

DRAFTS = [stop("ü"), running(), starting(3), Draft(ORDERS, stop("x").event, 77)]


def block(headers: dict[str, str]) -> bytes:
    """As nats-py writes it."""
    return ("NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode()


def both(subject: str, stored: bytes, data: bytes) -> bool:
    """Whether the short way was taken; checks that it leads to the same entry."""
    short = codec.decode_block(7, 8, subject, stored, data)
    assert short is None or short == codec.decode(7, 8, subject, parse_headers(stored), data)
    return short is not None


@given(
    st.sampled_from(DRAFTS), st.text(max_size=20), st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=5))
)
@example(DRAFTS[0], "cli/anna", "up orders", {"Nats-Msg-Id": "x", "Nats-Batch-Sequence": "1"})
def test_what_we_write_is_read_the_short_way(draft: Draft, actor: str, correlation: str, more: dict[str, str]):
    """Whatever the context and whatever other headers there are; plain ones do take the short way."""
    heads = {draft.aggregate: Head(3, "a" * 64)}
    [link] = chain.link([draft], heads, actor=actor, correlation=correlation, new_id=lambda: "id-1", wall_ns=1)
    stored = link.stored
    short = both(stored.subject, block({**stored.headers, **more}), stored.data)
    if (actor + correlation).isascii() and all(name.startswith("Nats-") for name in more):
        assert short
    assert not short or codec.decode_block(7, 8, stored.subject, block(stored.headers), stored.data).hash == stored.hash  # type: ignore[union-attr]


@given(st.binary(max_size=40), st.integers(0, 600), st.integers(0, 20))
def test_a_damaged_block_is_read_alike(noise: bytes, at: int, cut: int):
    """Bytes inserted and taken away anywhere."""
    [link] = chain.link([DRAFTS[1]], {ORDERS: Head.EMPTY}, actor="a", correlation="", new_id=lambda: "id-1", wall_ns=1)
    whole = block({**link.stored.headers, "Nats-Msg-Id": "id-1"})
    both(link.stored.subject, whole[:at] + noise + whole[at + cut :], link.stored.data)
    both(f"{link.stored.subject}.{noise!r}", whole, link.stored.data)
