"""Format and size of a picture from its first bytes, read without a decoder.

Pillow allocates for some formats while it opens them, so the limits are checked on this before
Pillow sees the file. Knows PNG, JPEG and WebP; says nothing about whether the rest is intact.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

PictureFormat = Literal["png", "jpeg", "webp"]

SNIFF_BYTES = 16
"""How many leading bytes ``sniff_picture`` needs."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What the first bytes of a picture claim."""

    format: PictureFormat
    width: int
    """Pixels as stored, before any EXIF rotation."""
    height: int
    bit_depth: int = 8
    """Bits per sample; 16 only for PNG, 1, 2 and 4 too."""
    animated: bool = False


def sniff_picture(head: bytes) -> PictureFormat | None:
    """The picture format that ``head`` starts, or None when it is something else."""
    if head.startswith(_PNG_SIGNATURE):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


def read_header(stream: BinaryIO) -> PictureHeader | None:
    """Reads the header of a seekable picture; None when it is not PNG, JPEG or WebP.

    Raises:
        ValueError: it starts like one of them but its header is damaged.
    """
    stream.seek(0)
    head = stream.read(SNIFF_BYTES)
    stream.seek(0)
    try:
        match sniff_picture(head):
            case "png":
                header = _read_png(stream)
            case "jpeg":
                header = _read_jpeg(stream)
            case "webp":
                header = _read_webp(stream)
            case None:
                return None
    except struct.error as error:
        raise ValueError("the header ends too early") from error
    if header.width == 0 or header.height == 0:
        raise ValueError(f"the header claims {header.width}x{header.height} pixels")
    return header


def _read_png(stream: BinaryIO) -> PictureHeader:
    stream.seek(len(_PNG_SIGNATURE))
    length, kind = struct.unpack(">I4s", stream.read(8))
    if kind != b"IHDR" or length != 13:
        raise ValueError("the PNG does not start with an IHDR chunk")
    width, height, bit_depth = struct.unpack(">IIB", stream.read(9))
    stream.seek(4 + 4, 1)
    return PictureHeader("png", width, height, bit_depth, animated=_png_frames(stream) > 1)


def _png_frames(stream: BinaryIO) -> int:
    """Frames announced by an acTL chunk; it must stand before the first IDAT to count."""
    while len(chunk := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", chunk)
        if kind == b"IDAT":
            break
        if kind == b"acTL":
            return int(struct.unpack(">I", stream.read(4))[0])
        stream.seek(length + 4, 1)
    return 1


def _read_jpeg(stream: BinaryIO) -> PictureHeader:
    stream.seek(2)
    while True:
        marker = _next_jpeg_marker(stream)
        if marker in _JPEG_BARE_MARKERS:
            continue
        if marker in (0xD9, 0xDA):
            raise ValueError("the JPEG holds no frame header")
        (length,) = struct.unpack(">H", stream.read(2))
        if marker in _JPEG_FRAME_MARKERS:
            bit_depth, height, width = struct.unpack(">BHH", stream.read(5))
            return PictureHeader("jpeg", width, height, bit_depth)
        stream.seek(max(length, 2) - 2, 1)


def _next_jpeg_marker(stream: BinaryIO) -> int:
    byte = stream.read(1)
    while byte and byte != b"\xff":
        byte = stream.read(1)
    while byte == b"\xff":
        byte = stream.read(1)
    if not byte:
        raise ValueError("the header ends too early")
    return byte[0]


def _read_webp(stream: BinaryIO) -> PictureHeader:
    stream.seek(12)
    kind, _, payload = struct.unpack("<4sI10s", stream.read(18))
    if kind == b"VP8X":
        width = int.from_bytes(payload[4:7], "little") + 1
        height = int.from_bytes(payload[7:10], "little") + 1
        return PictureHeader("webp", width, height, animated=bool(payload[0] & 0x02))
    if kind == b"VP8L":
        if payload[0] != 0x2F:
            raise ValueError("the WebP has a damaged lossless header")
        bits = int.from_bytes(payload[1:5], "little")
        return PictureHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        if payload[3:6] != b"\x9d\x01\x2a":
            raise ValueError("the WebP does not start with a key frame")
        width, height = struct.unpack("<HH", payload[6:10])
        return PictureHeader("webp", width & 0x3FFF, height & 0x3FFF)
    raise ValueError("the WebP starts with an unknown chunk")
