"""HighwayHash-64, with which nats-server guards every stored message against bit rot. Pure.

The portable reference, in Python: https://github.com/google/highwayhash (highwayhash/hh_portable.h)
"""

import struct
from typing import Final

_M: Final = 0xFFFFFFFFFFFFFFFF
_LOW: Final = 0xFFFFFFFF
_INIT0: Final[tuple[int, ...]] = (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3)
_INIT1: Final[tuple[int, ...]] = (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377)
_PACKET: Final = struct.Struct("<4Q")


class HighwayHash:
    """Hashes under one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        words: tuple[int, ...] = _PACKET.unpack(key)
        self._m0: list[int] = [*_INIT0]
        self._m1: list[int] = [*_INIT1]
        self._v0 = [init ^ word for init, word in zip(_INIT0, words, strict=True)]
        self._v1 = [init ^ _swapped(word) for init, word in zip(_INIT1, words, strict=True)]

    def digest(self, data: bytes) -> bytes:
        """The hash, 8 bytes, lowest first."""
        v0, v1, m0, m1 = [*self._v0], [*self._v1], [*self._m0], [*self._m1]
        whole = len(data) & ~31
        for at in range(0, whole, 32):
            _update(v0, v1, m0, m1, _PACKET.unpack_from(data, at))
        rest = data[whole:]
        if rest:
            size = len(rest)
            for lane in range(4):
                v0[lane] = (v0[lane] + (size << 32) + size) & _M
                v1[lane] = _rotated(v1[lane] & _LOW, size) | _rotated(v1[lane] >> 32, size) << 32
            _update(v0, v1, m0, m1, _PACKET.unpack(_padded(rest)))
        for _ in range(4):
            _update(v0, v1, m0, m1, (_swapped(v0[2]), _swapped(v0[3]), _swapped(v0[0]), _swapped(v0[1])))
        return ((v0[0] + v1[0] + m0[0] + m1[0]) & _M).to_bytes(8, "little")


def _update(v0: list[int], v1: list[int], m0: list[int], m1: list[int], packet: tuple[int, ...]) -> None:
    for lane in range(4):
        b = (v1[lane] + m0[lane] + packet[lane]) & _M
        a = v0[lane]
        m0[lane] ^= (b & _LOW) * (a >> 32)
        a = (a + m1[lane]) & _M
        m1[lane] ^= (a & _LOW) * (b >> 32)
        v0[lane], v1[lane] = a, b
    _merge(v1, v0)
    _merge(v0, v1)


def _merge(source: list[int], target: list[int]) -> None:
    """The zipper: bytes of two neighbouring lanes interleaved and added."""
    for lane in (0, 2):
        a, b = source[lane], source[lane + 1]
        target[lane] = (
            target[lane]
            + (
                ((a & 0xFF000000) | (b & 0xFF00000000)) >> 24
                | ((a & 0xFF0000000000) | (b & 0xFF000000000000)) >> 16
                | (a & 0xFF0000)
                | (a & 0xFF00) << 32
                | (b & 0xFF00000000000000) >> 8
                | (a << 56 & _M)
            )
        ) & _M
        target[lane + 1] = (
            target[lane + 1]
            + (
                ((b & 0xFF000000) | (a & 0xFF00000000)) >> 24
                | (b & 0xFF0000)
                | (b & 0xFF0000000000) >> 16
                | (b & 0xFF00) << 24
                | (a & 0xFF000000000000) >> 8
                | (b & 0xFF) << 48
                | (a & 0xFF00000000000000)
            )
        ) & _M


def _padded(rest: bytes) -> bytes:
    size, few = len(rest), len(rest) & 3
    packet = bytearray(32)
    packet[: size - few] = rest[: size - few]
    if size & 16:
        packet[28:] = rest[-4:]
    elif few:
        tail = rest[size - few :]
        packet[16:19] = bytes((tail[0], tail[few >> 1], tail[few - 1]))
    return bytes(packet)


def _rotated(half: int, count: int) -> int:
    return (half << count | half >> (32 - count)) & _LOW


def _swapped(word: int) -> int:
    return word >> 32 | (word & _LOW) << 32
