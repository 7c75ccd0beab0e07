"""Heartbeats to and from what is stored: one readable JSON object each. Pure."""

import msgspec

from flowctl.journal import subjects
from flowctl.journal.heartbeats import Beat, Heartbeat, HostBeat, ServiceBeat

_encoder = msgspec.json.Encoder(order="deterministic")
_decoders = {
    "component": msgspec.json.Decoder(Heartbeat),
    "host": msgspec.json.Decoder(HostBeat),
    "service": msgspec.json.Decoder(ServiceBeat),
}


def encode(beat: Beat) -> bytes:
    """The data of a heartbeat's message."""
    return _encoder.encode(beat)


def decode(subject: str, data: bytes) -> Beat | None:
    """The heartbeat in a message, None if there is none or it speaks for somebody else than its subject says."""
    decoder = _decoders.get(subject.removeprefix(f"{subjects.HEARTBEAT_ROOT}.").partition(".")[0])
    if decoder is None:
        return None
    try:
        beat = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return beat if subjects.beat_subject(beat) == subject else None
