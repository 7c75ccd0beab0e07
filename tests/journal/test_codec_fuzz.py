"""Whatever stands in the journal, the decoder names it and goes on."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from flowctl.journal import codec, subjects
from flowctl.journal.events import EVENT_TYPES, Aggregate, PipelineStopRequested
from flowctl.journal.log import Draft, Poison, Unknown

TOKEN = st.sampled_from([token for _, token in subjects.TOKENS.values()]) | st.text(max_size=8)
SUBJECTS = st.one_of(
    st.text(max_size=40),
    st.builds("flowctl.journal.component.{}.{}.{}.{}".format, st.text(max_size=5), st.just("a"), st.text(max_size=3), TOKEN),
    st.builds("flowctl.journal.{}.orders.{}".format, st.sampled_from(["pipeline", "host", "component"]), TOKEN),
)
CE_TYPES = st.text(max_size=20) | st.builds(
    "flowctl.{}.{}.v{}".format, st.sampled_from(["pipeline", "host", "component"]), TOKEN, st.integers(-1, 10**7)
)
HEADERS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        subjects.CE_ID: st.text(max_size=10),
        subjects.CE_TYPE: CE_TYPES,
        subjects.CE_CAUSATION: st.text(max_size=25) | st.integers().map(str),
        subjects.CE_PREVIOUS_HASH: st.text(max_size=5) | st.just("a" * 64),
        subjects.CE_ACTOR: st.text(max_size=5),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


def tagged(value: dict[str, object], name: str) -> bytes:
    """JSON that looks like an event."""
    return msgspec.json.encode({**value, "type": name})


TAGGED = st.builds(
    tagged,
    st.dictionaries(st.sampled_from(["reason", "host", "incarnation", "component", "replicas", "pipeline", "status"]), JSON),
    st.sampled_from([t.__name__ for t in EVENT_TYPES]) | st.text(),
)
DATA = st.binary(max_size=100) | JSON.map(msgspec.json.encode) | TAGGED


@given(SUBJECTS, HEADERS, DATA)
def test_decoding_never_raises(subject: str, headers: dict[str, str] | None, data: bytes):
    """Any subject, headers and bytes give an entry: an event, an unknown type, or poison with a reason."""
    entry = codec.decode(1, 2, subject, headers, data)
    assert (entry.seq, entry.time_ns, entry.data) == (1, 2, data)
    if isinstance(entry.event, Poison):
        assert entry.event.reason
    if not isinstance(entry.event, Poison | Unknown):
        assert entry.id
        assert entry.aggregate is not None


@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_damaged_entry_has_another_hash(noise: bytes, at: int):
    """One changed byte of the data, and the chain does not hold any more."""
    draft = Draft(Aggregate.of_pipeline("orders"), PipelineStopRequested(reason="because of something"))
    stored = codec.encode(draft, entry_id="1", actor="a", correlation="", previous_hash="", wall_ns=0)
    at = min(at, len(stored.data))
    damaged = stored.data[:at] + noise + stored.data[at + len(noise) :]
    entry = codec.decode(1, 1, stored.subject, stored.headers, damaged)
    assert (entry.hash == stored.hash) == (damaged == stored.data)
