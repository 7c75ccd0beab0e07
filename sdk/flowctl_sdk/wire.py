"""The stream's messages as bytes, its limits and its gRPC options.

The columns of a batch are encoded once, however many edges they go out on: protobuf lets a message be put together from encoded
fields, so each edge only puts its own offset in front.
"""

from collections.abc import Sequence
from typing import Final

from flowctl.data.v1.data_pb2 import Batch, EndOfStream, FromUpstream, Peer, TapBatch, Welcome
from flowctl.ids import InstanceId

PROTOCOL: Final = 1
METHOD: Final = "/flowctl.data.v1.EventStream/Subscribe"
SERVICE: Final = "flowctl.data.v1.EventStream"
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
# Offset, lengths and tags around the columns.
FRAME_BYTES: Final = 32

_BATCH_TAG: Final = bytes([FromUpstream.BATCH_FIELD_NUMBER << 3 | 2])
_SAMPLE_TAG: Final = bytes([TapBatch.BATCHES_FIELD_NUMBER << 3 | 2])
_SKIPPED_TAG: Final = bytes([TapBatch.SKIPPED_FIELD_NUMBER << 3])
_OFFSET_TAG: Final = bytes([Batch.FIRST_OFFSET_FIELD_NUMBER << 3])

_SHARED_OPTIONS: Final[list[tuple[str, int]]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES + 65_536),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + 65_536),
    # A peer that vanished without closing (a cut cable, a frozen host) is noticed within seconds.
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Other pings of the transport (it measures bandwidth with them) stand in the way of a keepalive one: limit these too.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
SERVER_OPTIONS: Final[list[tuple[str, int]]] = [
    *_SHARED_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
]
CHANNEL_OPTIONS: Final[list[tuple[str, int]]] = [
    *_SHARED_OPTIONS,
    # A channel is made for one attempt, and must not inherit the back-off of an earlier one to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
]


def peer(instance: InstanceId, incarnation: int) -> Peer:
    """An instance at one incarnation as the wire says it."""
    return Peer(pipeline=instance.pipeline, component=instance.component, index=instance.index, incarnation=incarnation)


def batch_frame(first_offset: int, columns: Sequence[bytes]) -> bytes:
    """The ``FromUpstream`` message of a batch whose encoded columns are given, in pieces."""
    offset = _OFFSET_TAG + _varint(first_offset)
    return b"".join((_BATCH_TAG, _varint(len(offset) + sum(map(len, columns))), offset, *columns))


def welcome_frame(upstream: Peer, first_offset: int, epoch: int) -> bytes:
    """The first message of an upstream."""
    welcome = Welcome(protocol=PROTOCOL, upstream=upstream, first_offset=first_offset, epoch=epoch)
    return FromUpstream(welcome=welcome).SerializeToString()


def end_frame(next_offset: int) -> bytes:
    """The last message of an upstream."""
    return FromUpstream(end_of_stream=EndOfStream(next_offset=next_offset)).SerializeToString()


def tap_frame(samples: Sequence[bytes], skipped: int) -> bytes:
    """The ``TapBatch`` of these encoded columns."""
    parts: list[bytes] = []
    for sample in samples:
        parts += (_SAMPLE_TAG, _varint(len(sample)), sample)
    return b"".join((*parts, _SKIPPED_TAG, _varint(skipped)))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
