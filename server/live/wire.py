"""How live frames lie on the wire: the answer's header, and what HTTP and its worker exchange."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from server.media.wire import slot_bytes

LiveFormat = Literal["rgb24", "nv12", "jpeg"]
FORMAT_NUMBERS: dict[LiveFormat, int] = {"rgb24": 1, "nv12": 2, "jpeg": 3}

MAGIC = b"SRF1"
_ANSWER = struct.Struct("<4sIIIBxxxffI")
HEADER_BYTES = _ANSWER.size
"""32: the payload of an answer begins here."""

FRAME_LINK = struct.Struct("<II")
"""HTTP to worker, before each frame: its number and its length in bytes."""
RESULT_LINK = struct.Struct("<IIf")
"""Worker to HTTP, before each result: number, length, milliseconds of work."""


@dataclass(frozen=True, slots=True)
class AnswerHeader:
    """What stands before the pixels of an answer; little-endian, 32 bytes."""

    frame: int
    """Which of the client's binary messages this answers, counted from 0."""
    width: int
    """Pixels of the answer."""
    height: int
    format: LiveFormat
    latency_ms: float
    """From the frame's arrival at the server to this answer."""
    work_ms: float
    """Of these, decoding, upscaling and encoding."""
    dropped: int
    """Frames that newer ones have replaced so far."""

    def pack(self) -> bytes:
        """The bytes; ``unpack`` turns them back."""
        return _ANSWER.pack(
            MAGIC,
            self.frame,
            self.width,
            self.height,
            FORMAT_NUMBERS[self.format],
            self.latency_ms,
            self.work_ms,
            self.dropped,
        )

    @classmethod
    def unpack(cls, message: bytes) -> AnswerHeader:
        """The header of an answer. Raises ValueError for anything else."""
        if len(message) < HEADER_BYTES or message[:4] != MAGIC:
            raise ValueError("this is no answer of the live mode")
        _, frame, width, height, number, latency_ms, work_ms, dropped = _ANSWER.unpack_from(message)
        names = {number: name for name, number in FORMAT_NUMBERS.items()}
        if number not in names:
            raise ValueError(f"there is no format {number}")
        return cls(frame, width, height, names[number], latency_ms, work_ms, dropped)


JPEG_EXTRA_BYTES = 64 * 1024
"""Tables and metadata, which a small JPEG has more of than pixels."""


def frame_bytes(form: LiveFormat, width: int, height: int) -> int:
    """Bytes of a frame of this size: exact for rgb24 and nv12, the most for jpeg."""
    if form == "jpeg":
        return slot_bytes("rgb24", height, width) + JPEG_EXTRA_BYTES
    return slot_bytes(form, height, width)
