"""What a first frame and its container say about a video, and whether it can be processed.

Runs in the decode child.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.container import InputContainer
from av.sidedata.sidedata import SideData, SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from server.media.colour import Colour
from server.media.decoding import Job, Timed, frame_rate, time_base
from server.media.errors import MediaError, UnsupportedMedia
from server.media.open import check_size, duration_seconds
from server.media.probe import StreamInfo, VideoInfo
from server.media.rational import fraction

_YUV420 = frozenset({"yuv420p", "yuvj420p", "nv12"})


def colour_of(frame: VideoFrame) -> Colour:
    """The colour tags of a frame, as they are."""
    full_range = {1: False, 2: True}.get(int(frame.color_range))
    if full_range is None and frame.format.name.startswith("yuvj"):
        full_range = True
    return Colour(
        matrix=int(frame.colorspace),
        full_range=full_range,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
    )


def describe(job: Job, first: Timed, formats: list[str]) -> VideoInfo:
    """The video that begins with the frame ``first``.

    Args:
        job: where the frame comes from.
        first: decoded already, since only frames tell the truth about size and colour.
        formats: frame formats that the parent takes.

    Raises:
        UnsupportedMedia: 8-bit frames without alpha cannot hold it.
        OverLimit: the frames are too large.
    """
    frame, stream, container = first.frame, job.stream, job.container
    check_size(frame.width, frame.height, job.limits)
    depth = max(component.bits for component in frame.format.components)
    colour = colour_of(frame)
    _check_representable(stream, frame, colour, depth)
    resolved = colour.resolved(frame.height, is_rgb=frame.format.is_rgb)
    planar = frame.format.name in _YUV420 and resolved.matrix_name is not None
    return VideoInfo(
        container=container.format.name.split(",")[0],
        codec=stream.codec_context.name,
        width=frame.width,
        height=frame.height,
        pixel_format=frame.format.name,
        bit_depth=depth,
        frame_format="nv12" if planar and "nv12" in formats else "rgb24",
        time_base=time_base(stream),
        average_rate=frame_rate(stream),
        duration_seconds=duration_seconds(container, stream),
        start_pts=first.pts,
        start_seconds=Fraction(container.start_time or 0, av.time_base),
        frames_promised=stream.frames,
        colour=resolved,
        sample_aspect_ratio=fraction(stream.sample_aspect_ratio),
        display_matrix=_display_matrix(frame),
        streams=tuple(_stream_info(container)),
        video_index=stream.index,
    )


def _check_representable(
    stream: VideoStream, frame: VideoFrame, colour: Colour, depth: int
) -> None:
    """Refuses what 8-bit frames without alpha cannot hold."""
    if colour.problem is not None:
        raise UnsupportedMedia(
            f"The video uses {colour.problem}, which is not supported; convert it to 8-bit SDR.",
            code="hdr",
        )
    if _side_data(frame, SideDataType.DOVI_METADATA) is not None:
        raise UnsupportedMedia(
            "The video is Dolby Vision, which is not supported; convert it to 8-bit SDR.",
            code="hdr",
        )
    # Every ProRes is at least 10-bit; it is taken, and the loss is reported.
    if depth > 8 and stream.codec_context.name != "prores":
        raise UnsupportedMedia(
            f"The video has {depth} bits per sample ({frame.format.name}); convert it to 8 bits.",
            code="bit_depth",
        )
    has_alpha = any(component.is_alpha for component in frame.format.components)
    declared = stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE"))
    if declared == "1" or (has_alpha and stream.codec_context.name != "gif"):
        raise alpha_error()


def alpha_error() -> MediaError:
    """The error for transparent video."""
    return UnsupportedMedia(
        "The video is transparent (alpha), which is not supported; flatten it first.", code="alpha"
    )


def _side_data(frame: VideoFrame, kind: SideDataType) -> SideData | None:
    """Side data of a frame. PyAV 18 finds none of it when one has a type that it does not know."""
    try:
        return cast("SideDataContainer", frame.side_data).get(kind)
    except ValueError:
        return None


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    data = _side_data(frame, SideDataType.DISPLAYMATRIX)
    if data is not None:
        return struct.unpack("<9i", bytes(data)[:36])
    turns = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), -180: (-1, 0, 0, -1), -90: (0, 1, -1, 0)}
    if frame.rotation not in turns:
        return None
    one = 1 << 16
    a, b, c, d = (value * one for value in turns[frame.rotation])
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


def _stream_info(container: InputContainer) -> Iterator[StreamInfo]:
    for stream in container.streams:
        context = stream.codec_context
        # Without a context PyAV's own ``name`` of a subtitle stream fails.
        name = getattr(stream if context is None else context, "name", None) or "unknown"
        yield StreamInfo(stream.index, stream.type, name, stream.language)
