"""Our quicker reading of header blocks gives what nats-py gives."""

from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client

from flowctl.journal.jetstream.client import parse_header_lines
from flowctl.journal.jetstream.messages import parse_headers


def line(name: bytes, value: bytes) -> bytes:
    """One header line."""
    return name + b":" + value


LINES: st.SearchStrategy[list[bytes]] = st.lists(
    st.binary(max_size=12)
    | st.builds(line, st.binary(max_size=6) | st.sampled_from([b"ce-id", b" ce-x "]), st.binary(max_size=6)),
    max_size=5,
)


@given(LINES)
@example([b"a: \xc2\xa0x\xc2\xa0\r\nb:\tc \r\n: d\r\ne f: g\r\n\xff: h\r\ni: \xff\xfe\r\n"])
def test_header_blocks_are_read_as_nats_py_reads_them(lines: list[bytes]):
    """Whatever bytes a foreign client stored as headers."""
    raw = b"\r\n".join(lines)
    assert parse_header_lines(raw) == Client._parse_header_lines(raw)  # pyright: ignore[reportPrivateUsage] - what is compared


def test_a_stored_header_block_is_read():
    """What the server returns with a stored message, first line included."""
    assert parse_headers(b"NATS/1.0\r\nce-id: 1\r\nce-type:x\r\n\r\n") == {"ce-id": "1", "ce-type": "x"}
