"""What a file is, from its first bytes alone. Names and declared types are never looked at.

The demuxer name goes to the opener, so that FFmpeg never guesses a format from user data: a
playlist or a script of another format can then not be reached at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.media.errors import UnsupportedMedia

HEAD_BYTES = 4096
"""How much of a file ``sniff`` wants to see."""

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True, slots=True)
class Sniffed:
    """The kind of a file and the name that its opener needs."""

    kind: Literal["picture", "video"]
    name: str
    """Picture: ``png``, ``jpeg`` or ``webp``. Video: FFmpeg's demuxer name."""
    media_type: str
    """MIME type, e.g. ``video/mp4``."""


def sniff(head: bytes) -> Sniffed:
    """Recognises a file by its magic.

    Args:
        head: the first ``HEAD_BYTES`` bytes, or all of a shorter file.

    Raises:
        UnsupportedMedia: nothing that is supported begins like this.
    """
    found = _picture(head) or _video(head)
    if found is not None:
        return found
    if not head:
        raise UnsupportedMedia("The file is empty; send a picture or a video.", code="empty")
    raise UnsupportedMedia(
        "The file is not a supported picture (PNG, JPEG, WebP) or video "
        "(MP4, MOV, MKV, WebM, AVI, MPEG-TS, GIF); convert it to one of these."
    )


def sniff_file(path: Path) -> Sniffed:
    """``sniff`` on the first bytes of ``path``. Raises UnsupportedMedia or OSError."""
    with path.open("rb") as file:
        return sniff(file.read(HEAD_BYTES))


def _picture(head: bytes) -> Sniffed | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Sniffed("picture", "png", "image/png")
    if head.startswith(b"\xff\xd8\xff"):
        return Sniffed("picture", "jpeg", "image/jpeg")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Sniffed("picture", "webp", "image/webp")
    return None


def _video(head: bytes) -> Sniffed | None:
    if head[4:8] in _MOV_BOXES:
        if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1"):
            return None  # still pictures in a movie's clothes
        quicktime = head[4:8] != b"ftyp" or head[8:12] == b"qt  "
        return Sniffed("video", "mov", "video/quicktime" if quicktime else "video/mp4")
    if head.startswith(b"\x1aE\xdf\xa3"):
        webm = b"webm" in head[:64]
        return Sniffed("video", "matroska", "video/webm" if webm else "video/x-matroska")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return Sniffed("video", "avi", "video/x-msvideo")
    if head.startswith((b"GIF87a", b"GIF89a")):
        return Sniffed("video", "gif", "image/gif")
    if _is_transport_stream(head):
        return Sniffed("video", "mpegts", "video/mp2t")
    return None


def _is_transport_stream(head: bytes) -> bool:
    """188-byte packets, or 192-byte ones (M2TS) whose sync byte follows a time code."""
    return any(
        head[offset : offset + 1] == b"G"
        and (
            head[offset + length : offset + length + 1] == b"G" or len(head) in (length, length * 2)
        )
        for offset, length in ((0, 188), (4, 192))
    )
