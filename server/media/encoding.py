"""Frames to packets with PyAV: one encoder in one output container. Runs in the encode child."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from server.media.colour import RGB_RANGE, SWSCALE_AREA_FLAGS, Colour
from server.media.wire import copy_rows, plane_shapes

FRAME_DURATION_FLAG = 1 << 8
"""AV_CODEC_FLAG_FRAME_DURATION: packets keep the duration of their frame."""


_FEWEST_WITH_DTS = 3
"""x265 derives decoding times from its third frame; of fewer they are whatever was in memory, and
the muxer refuses them or moves the whole video by centuries."""


@dataclass(frozen=True, slots=True)
class PictureSpec:
    """What comes in and what is written. Sizes in pixels."""

    frame_format: str
    """``rgb24`` or ``nv12``: how frames lie in shared memory."""
    width: int
    height: int
    out_width: int
    out_height: int
    colour: Colour
    sample_aspect_ratio: Fraction | None
    display_matrix: tuple[int, ...] | None

    def describe(self, context: VideoCodecContext) -> None:
        """Tells an encoder, or a stream's header, how its pixels are to be shown."""
        context.colorspace = self.colour.matrix
        context.color_range = self.colour.swscale_range
        context.color_primaries = self.colour.primaries
        context.color_trc = self.colour.transfer
        if self.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = self.sample_aspect_ratio

    def describe_stream(self, stream: VideoStream) -> None:
        """The same of a stream, which also knows how it is turned."""
        self.describe(stream.codec_context)
        if self.display_matrix is not None:
            stream.set_display_matrix(self.display_matrix)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How it is encoded."""

    encoder: str
    options: dict[str, str]
    time_base: Fraction
    rate: Fraction | None
    takes_nv12: bool


@dataclass
class Timings:
    """Milliseconds of each frame, per stage."""

    convert_ms: list[float] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)


class PictureEncoder:
    """The video stream of one output container."""

    def __init__(
        self, output: OutputContainer, spec: EncoderSpec, picture: PictureSpec, timings: Timings
    ) -> None:
        """Adds the stream; nothing is opened before the container's header is written."""
        self._output = output
        self._picture = picture
        self._timings = timings
        self._time_base = spec.time_base
        self._staging: VideoFrame | None = None
        self._last: VideoFrame | None = None
        self.frames = 0
        nv12 = picture.frame_format == "nv12" and spec.takes_nv12
        self._pixel_format = "nv12" if nv12 else "yuv420p"
        self.stream = self._add_stream(spec)

    def _add_stream(self, spec: EncoderSpec) -> VideoStream:
        picture = self._picture
        stream: VideoStream = self._output.add_stream(spec.encoder, rate=spec.rate or 25)  # type: ignore[assignment]
        context = stream.codec_context
        context.width, context.height = picture.out_width, picture.out_height
        context.pix_fmt = self._pixel_format
        # A variable frame rate survives only with the clock of the source.
        context.time_base = spec.time_base
        stream.time_base = spec.time_base
        context.options = dict(spec.options)
        context.flags |= FRAME_DURATION_FLAG
        picture.describe_stream(stream)
        return stream

    def encode(self, slot: memoryview, pts: int, duration: int) -> list[Packet[VideoStream]]:
        """Encodes the frame in ``slot``, which may be reused when this returns."""
        started = time.perf_counter()
        self._last = self._convert(slot)
        self._timings.convert_ms.append((time.perf_counter() - started) * 1e3)
        return self.encode_again(pts, duration)

    def encode_again(self, pts: int, duration: int) -> list[Packet[VideoStream]]:
        """Encodes the previous frame once more, at another time."""
        assert self._last is not None
        started = time.perf_counter()
        frame = self._last
        frame.pts, frame.time_base, frame.duration = pts, self._time_base, duration
        packets = self.stream.encode(frame)
        self._timings.encode_ms.append((time.perf_counter() - started) * 1e3)
        self.frames += 1
        return packets

    def flush(self) -> list[Packet[VideoStream]]:
        """What the encoder still holds."""
        packets = self.stream.encode(None)
        if self.stream.codec_context.name == "libx265" and self.frames < _FEWEST_WITH_DTS:
            for packet in packets:
                packet.dts = packet.pts
        return packets

    def _convert(self, slot: memoryview) -> VideoFrame:
        picture = self._picture
        colour, nv12 = picture.colour, picture.frame_format == "nv12"
        converted = self._loaded(slot).reformat(
            width=picture.out_width,
            height=picture.out_height,
            format=self._pixel_format,
            src_colorspace=colour.swscale_matrix,
            dst_colorspace=colour.swscale_matrix,
            src_color_range=colour.swscale_range if nv12 else RGB_RANGE,
            dst_color_range=colour.swscale_range,
            # Measured: within one grey level of the exact mean over each pixel's footprint.
            interpolation=SWSCALE_AREA_FLAGS,
        )
        converted.colorspace = colour.matrix
        converted.color_range = colour.swscale_range
        converted.color_primaries = colour.primaries
        converted.color_trc = colour.transfer
        return converted

    def _loaded(self, slot: memoryview) -> VideoFrame:
        picture = self._picture
        if self._staging is None:
            self._staging = VideoFrame(picture.width, picture.height, picture.frame_format)
        # A new frame of 25 MB costs more in page faults than its copy does; this makes one only
        # while an encoder still holds the last.
        self._staging.make_writable()
        start = 0
        shapes = plane_shapes(picture.frame_format, picture.height, picture.width)
        for plane, (rows, length) in zip(self._staging.planes, shapes, strict=True):
            copy_rows(slot[start:], memoryview(plane), rows, (length, plane.line_size), length)
            start += rows * length
        return self._staging


def picture_from_message(message: dict[str, Any]) -> PictureSpec:
    """A PictureSpec out of JSON values."""
    aspect, matrix = message["sample_aspect_ratio"], message["display_matrix"]
    return PictureSpec(
        frame_format=message["frame_format"],
        width=message["width"],
        height=message["height"],
        out_width=message["out_width"],
        out_height=message["out_height"],
        colour=Colour(**message["colour"]),
        sample_aspect_ratio=None if aspect is None else Fraction(aspect),
        display_matrix=None if matrix is None else tuple(matrix),
    )


def encoder_from_message(message: dict[str, Any]) -> EncoderSpec:
    """An EncoderSpec out of JSON values."""
    return EncoderSpec(
        encoder=message["encoder"],
        options=dict(message["options"]),
        time_base=Fraction(message["time_base"]),
        rate=None if message["rate"] is None else Fraction(message["rate"]),
        takes_nv12=bool(message["takes_nv12"]),
    )


def try_encoder(encoder: str, options: dict[str, str]) -> str | None:
    """Really opens an encoder and encodes a frame; None, or why that failed."""
    try:
        context = av.CodecContext.create(encoder, "w")
        context.width, context.height = 256, 256  # type: ignore[attr-defined]
        context.pix_fmt = "yuv420p"  # type: ignore[attr-defined]
        context.time_base = Fraction(1, 25)
        context.framerate = Fraction(25)  # type: ignore[attr-defined]
        context.options = dict(options)
        frame = VideoFrame(256, 256, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = 0
        size = sum(packet.size for packet in (*context.encode(frame), *context.encode(None)))  # type: ignore[attr-defined]
    except (av.FFmpegError, ValueError, OSError) as error:
        return f"{type(error).__name__}"
    return None if size else "it made no data"
