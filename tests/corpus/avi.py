"""AVI files written byte by byte, for what no muxer would write."""

from __future__ import annotations

import struct


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def avi(
    pictures: list[bytes], width: int = 16, height: int = 16, text: bytes | None = None
) -> bytes:
    """Motion JPEG, one frame a picture; ``text`` becomes a subtitle stream."""
    streams = [_stream(b"vids", b"MJPG", len(pictures), _picture_format(width, height))]
    packets = [chunk(b"00dc", picture) for picture in pictures]
    if text is not None:
        streams.append(_stream(b"txts", b"\0\0\0\0", 1, b""))
        packets.insert(0, chunk(b"01tx", text))
    main = struct.pack(
        "<14I", 40000, 0, 0, 16, len(pictures), 0, len(streams), 0, width, height, 0, 0, 0, 0
    )
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + b"".join(streams))
    body = chunk(b"LIST", b"movi" + b"".join(packets))
    return chunk(b"RIFF", b"AVI " + header + body)


def _stream(kind: bytes, codec: bytes, length: int, form: bytes) -> bytes:
    numbers = (0, 0, 0, 0, 1, 25, 0, length, 0, 0, 0, 0, 0, 0, 0)
    header = kind + codec + struct.pack("<IHHIIIIIIIIHHHH", *numbers)
    return chunk(b"LIST", b"strl" + chunk(b"strh", header) + chunk(b"strf", form))


def _picture_format(width: int, height: int) -> bytes:
    return struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
