"""How much one upload may ask for. The server's settings fill it; the command line relaxes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one video. ``None`` means no limit."""

    max_frame_pixels: int = 2_073_600
    """Pixels of one input frame, checked before and while decoding."""
    max_frame_side: int = 2048
    """Width or height of an input frame in pixels."""
    max_frames: int | None = 3600
    max_duration_seconds: float | None = 120.0
    max_average_fps: float | None = 120.0
    max_streams: int = 16
    """Streams in the container, all kinds together."""
    max_attachment_bytes: int = 32 * 1024 * 1024
    open_seconds: float = 10.0
    """Time a demuxer gets to recognise the file."""
    no_progress_seconds: float = 30.0
    """A decoder or encoder that makes nothing for this long is killed."""
    decode_memory_bytes: int = 4 * 1024**3
    """Address space of a decode child."""
    decode_cpu_seconds: int | None = None
    """Processor time of a decode child."""


def command_line_limits() -> Limits:
    """Limits for files that the user chose on their own machine: only memory safety is left."""
    return Limits(
        max_frame_pixels=8192 * 8192,
        max_frame_side=16384,
        max_frames=None,
        max_duration_seconds=None,
        max_average_fps=None,
        max_streams=64,
        max_attachment_bytes=256 * 1024 * 1024,
        no_progress_seconds=120.0,
        decode_memory_bytes=16 * 1024**3,
    )
