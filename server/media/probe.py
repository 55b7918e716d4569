"""What is known about a video before it is processed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from server.media.colour import Colour


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of a container."""

    index: int
    type: str
    codec: str
    language: str | None = None


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video as its container and its first frame describe it."""

    container: str
    """FFmpeg's demuxer name, e.g. ``mov``."""
    codec: str
    width: int
    """Pixels as decoded, before any rotation."""
    height: int
    pixel_format: str
    bit_depth: int
    frame_format: str
    """How frames are handed over: ``rgb24`` or ``nv12``."""
    time_base: Fraction
    average_rate: Fraction | None
    duration_seconds: float | None
    start_pts: int
    """pts of the first frame that is handed over, in ``time_base`` units."""
    start_seconds: Fraction
    """Where the presentation of the file starts."""
    frames_promised: int
    """What the container claims, 0 when it does not say."""
    colour: Colour
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    """Rotation and mirroring: nine integers as in ISO/IEC 14496-12."""
    streams: tuple[StreamInfo, ...] = ()
    video_index: int = 0
    sandbox: dict[str, bool] = field(default_factory=dict)


def info_to_message(info: VideoInfo) -> dict[str, Any]:
    """``info`` as JSON values."""
    message = asdict(info)
    for name in ("time_base", "average_rate", "start_seconds", "sample_aspect_ratio"):
        value = message[name]
        message[name] = None if value is None else str(value)
    return message


def info_from_message(message: dict[str, Any]) -> VideoInfo:
    """The inverse of ``info_to_message``."""
    values = dict(message)
    for name in ("time_base", "average_rate", "start_seconds", "sample_aspect_ratio"):
        values[name] = None if values[name] is None else Fraction(values[name])
    values["colour"] = Colour(**values["colour"])
    values["streams"] = tuple(StreamInfo(**stream) for stream in values["streams"])
    if values["display_matrix"] is not None:
        values["display_matrix"] = tuple(values["display_matrix"])
    return VideoInfo(**values)
