"""Boxes of fragmented MP4 (ISO/IEC 14496-12): one movie fragment around packets that are there.

FFmpeg writes the header of the stream; the fragments are put together here, because each must say
when it is shown on the clock of the whole job, whichever order and process it is made in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_KEY_FLAGS, _OTHER_FLAGS = 0x02000000, 0x01010000
"""Sample flags: depends on no other sample; depends on some and is no sync sample."""
_DEFAULT_BASE_IS_MOOF = 0x020000
_TRUN = 0x000001 | 0x000100 | 0x000200 | 0x000400 | 0x000800
"""Data offset; duration, size, flags and composition offset of each sample."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One packet. Times in ticks of the stream."""

    size: int
    duration: int
    offset: int
    """Its pts minus its decode time; may be negative."""
    is_key: bool


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of ``kind`` with this content."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full(kind: bytes, version: int, flags: int, content: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), content)


def fragment_head(number: int, decode_time: int, samples: Sequence[Sample]) -> bytes:
    """Everything of a fragment before its packets: ``moof`` and the head of ``mdat``.

    Args:
        number: of the fragment, from 1.
        decode_time: of its first packet, in ticks, not negative.
        samples: its packets, in decoding order.
    """
    first = _moof(number, decode_time, samples, 0)
    moof = _moof(number, decode_time, samples, len(first) + 8)
    size = 8 + sum(sample.size for sample in samples)
    return moof + struct.pack(">I4s", size, b"mdat")


def _moof(number: int, decode_time: int, samples: Sequence[Sample], data_offset: int) -> bytes:
    entries = b"".join(
        struct.pack(
            ">IIIi",
            sample.duration,
            sample.size,
            _KEY_FLAGS if sample.is_key else _OTHER_FLAGS,
            sample.offset,
        )
        for sample in samples
    )
    return box(
        b"moof",
        _full(b"mfhd", 0, 0, struct.pack(">I", number)),
        box(
            b"traf",
            _full(b"tfhd", 0, _DEFAULT_BASE_IS_MOOF, struct.pack(">I", 1)),
            _full(b"tfdt", 1, 0, struct.pack(">Q", decode_time)),
            _full(b"trun", 1, _TRUN, struct.pack(">Ii", len(samples), data_offset) + entries),
        ),
    )


def decode_order_samples(
    pts: Sequence[int], end: int, packets: Sequence[tuple[int, int, bool]]
) -> list[Sample]:
    """Samples of a closed group of pictures.

    Decoding takes place on the times at which frames are shown, one after the other, so that a
    fragment begins where the one before ends; the offsets put each frame where it belongs.

    Args:
        pts: of every frame, ascending.
        end: where the next fragment begins.
        packets: (place in ``pts``, size, is key) of each packet, in decoding order.
    """
    borders = [*pts, max(end, pts[-1] + 1)]
    return [
        Sample(size, borders[index + 1] - borders[index], pts[place] - pts[index], is_key)
        for index, (place, size, is_key) in enumerate(packets)
    ]


def codec_string(sample_entry: str, extradata: bytes) -> str:
    """What a browser is asked whether it plays it (RFC 6381), from the decoder's configuration."""
    if sample_entry == "h264" and len(extradata) > 3 and extradata[0] == 1:
        return "avc1." + extradata[1:4].hex().upper()
    if sample_entry == "hevc" and len(extradata) > 12 and extradata[0] == 1:
        tier = "H" if extradata[1] & 0x20 else "L"
        flags = int(f"{int.from_bytes(extradata[2:6], 'big'):032b}"[::-1], 2)
        limits = extradata[6:12].rstrip(b"\0")
        tail = "".join(f".{byte:X}" for byte in limits)
        return f"hvc1.{extradata[1] & 0x1F}.{flags:X}.{tier}{extradata[12]}{tail}"
    if sample_entry == "av1" and len(extradata) > 2:
        profile, level = extradata[1] >> 5, extradata[1] & 0x1F
        tier = "H" if extradata[2] & 0x80 else "M"
        depth = "10" if extradata[2] & 0x40 else "08"
        return f"av01.{profile}.{level:02d}{tier}.{depth}"
    return ""
