"""What the user may choose about a video, and what the caller hears while it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from server.media.codecs import CONTAINERS, DEFAULT_CODEC, ContainerName
from server.media.errors import CodecUnavailable
from server.media.limits import Limits, command_line_limits
from server.media.probe import VideoInfo


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What the user may choose about a video."""

    codec: str = DEFAULT_CODEC
    """Encoder: ``libx264``, ``libx265``, ``libsvtav1``, ``h264_nvenc``, ``hevc_nvenc``,
    ``av1_nvenc``, or ``h264``, ``hevc``, ``av1``."""
    quality: int | None = None
    """Constant quality of the codec: 0 is best, 51 (AV1: 63) worst; None is the codec's default."""
    preset: str | None = None
    """The encoder's own speed preset; None is a fast one."""
    height: int | None = None
    """Height of the result in pixels; the x4 picture is averaged down to it."""
    size: tuple[int, int] | None = None
    """(width, height) of the result in pixels."""
    container: ContainerName | None = None
    """``mp4``, ``mov`` or ``mkv``; None: from the name of the output file, else MP4."""
    start_seconds: float | None = None
    """First moment wanted; the result then starts at zero."""
    end_seconds: float | None = None
    """First moment not wanted any more."""
    strict: bool = False
    """Refuse damaged or cut input instead of reporting it."""
    real_time: bool = False
    """Prefer speed over size."""
    reuse_duplicates: bool = True
    """Take the previous result for a frame that is exactly like the previous one."""
    formats: tuple[str, ...] = ("nv12", "rgb24")
    """Frame formats that the backend takes."""
    limits: Limits = field(default_factory=command_line_limits)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session is."""

    frames: int
    frames_total: int | None
    """An estimate; None when the container says nothing."""
    seconds: float
    fps: float
    eta_seconds: float | None


OnProgress = Callable[[Progress], None]


def choose_container(options: VideoOptions, output: Path | None) -> ContainerName:
    """The container asked for, else the one that the name of ``output`` says, else MP4.

    Raises:
        CodecUnavailable: the name ends in something else.
    """
    if options.container is not None:
        return options.container
    if output is None:
        return "mp4"
    suffix = output.suffix.lower().lstrip(".")
    for name in CONTAINERS:
        if suffix == name or (suffix, name) == ("m4v", "mp4"):
            return name
    raise CodecUnavailable(
        f"The output name ends in {output.suffix!r}; use .mp4, .mov or .mkv for a video."
    )


def expected_frames(info: VideoInfo, options: VideoOptions) -> int | None:
    """How many frames the part of the video that is wanted has, as far as one can tell."""
    whole = info.duration_seconds
    if not whole or info.average_rate is None:
        return info.frames_promised or None
    if options.start_seconds is None and options.end_seconds is None and info.frames_promised:
        return info.frames_promised
    end = min(options.end_seconds or whole, whole)
    return max(round((end - (options.start_seconds or 0.0)) * float(info.average_rate)), 1)
