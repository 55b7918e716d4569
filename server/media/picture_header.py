"""Format and size of a picture from its first bytes, read without a decoder.

Pillow allocates for some formats while it opens them, so the limits are checked on this before
Pillow sees the file. Knows PNG, JPEG and WebP; says nothing about whether the rest is intact.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

from server.media.errors import UnsupportedMedia, UnusableMedia
from server.media.sniff import HEAD_BYTES, sniff

PictureFormat = Literal["png", "jpeg", "webp"]

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


def read_header(stream: BinaryIO) -> PictureHeader:
    """Reads the header of a seekable file.

    Raises:
        UnsupportedMedia: not PNG, JPEG or WebP by its first bytes.
        UnusableMedia: it starts like one of them but its header is damaged.
    """
    stream.seek(0)
    kind = sniff(stream.read(HEAD_BYTES))
    readers = {"png": _read_png, "jpeg": _read_jpeg, "webp": _read_webp}
    if kind.name not in readers:
        raise UnsupportedMedia("This is a video where a picture (PNG, JPEG, WebP) is expected.")
    try:
        header = readers[kind.name](stream)
    except (struct.error, ValueError) as error:
        reason = str(error) if isinstance(error, _Damaged) else "it ends too early"
        raise UnusableMedia(
            f"The {kind.name} header is damaged ({reason}); send an intact picture."
        ) from error
    if header.width == 0 or header.height == 0:
        raise UnusableMedia(
            f"The {kind.name} header claims {header.width}x{header.height} pixels; "
            "send an intact picture."
        )
    return header


class _Damaged(ValueError):
    """The header breaks the rules of its format."""


def _read_png(stream: BinaryIO) -> PictureHeader:
    stream.seek(len(_PNG_SIGNATURE))
    length, kind = struct.unpack(">I4s", stream.read(8))
    if kind != b"IHDR" or length != 13:
        raise _Damaged("no IHDR chunk")
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
            raise _Damaged("no frame header")
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
        raise _Damaged("it ends too early")
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
            raise _Damaged("no lossless signature")
        bits = int.from_bytes(payload[1:5], "little")
        return PictureHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        if payload[3:6] != b"\x9d\x01\x2a":
            raise _Damaged("no key frame")
        width, height = struct.unpack("<HH", payload[6:10])
        return PictureHeader("webp", width & 0x3FFF, height & 0x3FFF)
    raise _Damaged("unknown first chunk")
