"""The process that parses and decodes user bytes: ``python -m server.media.decode_child FD``.

Reads one command from standard input, answers on standard output, puts frames into the shared
memory ``FD``. Never imports NumPy: its start would cost as much as everything else together.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from server.media.child import error_message
from server.media.colour import RGB_RANGE, SWSCALE_FLAGS, Colour
from server.media.errors import MediaError, UnsupportedMedia, UnusableMedia
from server.media.limits import Limits
from server.media.open import (
    check_size,
    choose_video,
    duration_seconds,
    open_container,
    too_many_frames,
)
from server.media.probe import StreamInfo, VideoInfo, info_to_message
from server.media.sandbox import enter
from server.media.wire import Inbox, Message, Ring, copy_rows, plane_shapes, send, slot_bytes

_YUV420 = frozenset({"yuv420p", "yuvj420p", "nv12"})
_SEEKABLE = frozenset({"mov", "matroska"})
"""Containers whose index makes a seek land on a key frame before the target."""


@dataclass
class Counters:
    """What happened while decoding."""

    packets: int = 0
    frames: int = 0
    """Frames handed over."""
    skipped: int = 0
    """Frames before ``--start``."""
    corrupt: int = 0
    corrupt_packets: int = 0
    decode_errors: int = 0
    interlaced: int = 0
    pts_repaired: int = 0
    colour_changed: int = 0
    stopped_early: bool = False
    """``--end`` was reached."""
    demux_error: str = ""


@dataclass
class Clock:
    """Gives every frame a pts that grows; counts those it had to change."""

    step: int
    last: int | None = None

    def pts(self, frame: VideoFrame, counters: Counters) -> int:
        """The frame's own pts, or the next free tick when it has none or goes back."""
        pts = frame.pts
        if pts is None:
            pts = 0 if self.last is None else self.last + max(self.step, 1)
            counters.pts_repaired += 1
        elif self.last is not None and pts <= self.last:
            pts = self.last + 1
            counters.pts_repaired += 1
        self.last = pts
        return pts


@dataclass
class Job:
    """One video being decoded."""

    container: InputContainer
    stream: VideoStream
    limits: Limits
    strict: bool
    counters: Counters = field(default_factory=Counters)

    def frames(self) -> Iterator[VideoFrame]:
        """Every frame that the decoder emits, in presentation order. Damage is counted."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError, ValueError) as error:
                self.counters.demux_error = type(error).__name__
                packet = None
            if packet is None or packet.size == 0:
                break
            if packet.has_sidedata("encryption_info"):
                raise UnusableMedia("The video is encrypted; decrypt it first.", code="encrypted")
            self.counters.packets += 1
            if packet.is_corrupt:
                self._damaged("A part of the video is missing or damaged")
                self.counters.corrupt_packets += 1
            yield from self._decode(packet)
        yield from self._decode(None)

    def _decode(self, packet: av.Packet[VideoStream] | None) -> Iterator[VideoFrame]:
        try:
            yield from self.stream.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError as error:
            self._damaged("A part of the video cannot be decoded", error)
            self.counters.decode_errors += 1

    def _damaged(self, what: str, cause: Exception | None = None) -> None:
        if self.strict:
            raise UnusableMedia(f"{what}, and strict was asked for.", code="corrupt") from cause


def main() -> None:
    """Runs one job; the exit status is 0 unless the process itself failed."""
    memory_fd = int(sys.argv[1])
    answers = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    inbox = Inbox(0)
    av.logging.set_level(None)
    try:
        _run(inbox, answers, memory_fd)
    except MediaError as error:
        send(answers, error_message(error))
    except MemoryError:
        text = "Decoding this video needs more memory than is allowed."
        send(answers, error_message(UnusableMedia(text, code="too_much_memory")))
    # The outermost edge of the child: whatever else a parser of user bytes throws is the file's.
    except Exception as error:
        text = f"The video cannot be decoded ({type(error).__name__}); it may be damaged."
        send(answers, error_message(UnusableMedia(text, code="corrupt")))


def _run(inbox: Inbox, answers: int, memory_fd: int) -> None:
    command = inbox.take()
    limits = Limits(**command["limits"])
    cut_off = enter(
        memory_bytes=limits.decode_memory_bytes,
        cpu_seconds=limits.decode_cpu_seconds,
        may_write_files=False,
    )
    with open_container(Path(command["source"]), limits) as container:
        stream = choose_video(container, limits)
        job = Job(container, stream, limits, bool(command["strict"]))
        origin = Fraction(container.start_time or 0, av.time_base)
        start, end = (
            None if command[name] is None else origin + Fraction(str(command[name]))
            for name in ("start_seconds", "end_seconds")
        )
        wanted = _Wanted(start, end, command["after_pts"])
        _seek(job, wanted)
        frames = _timed(job, wanted)
        first = next(frames, None)
        if first is None:
            raise _nothing(job)
        info = replace(_describe(job, first, command["formats"]), sandbox=cut_off)
        send(answers, {"type": "head", "info": info_to_message(info)})
        _hand_over(job, info, _chain(first, frames), _Outlet(inbox, answers, memory_fd))
    send(answers, {"type": "end", **job.counters.__dict__})


def _nothing(job: Job) -> MediaError:
    if job.counters.skipped or job.counters.stopped_early:
        return UnusableMedia(
            "There is no frame between start and end; choose another range.", code="empty_range"
        )
    if job.counters.decode_errors:
        return UnusableMedia("No frame of the video can be decoded; it is damaged.", code="corrupt")
    return UnusableMedia("The video has no frames.", code="no_frames")


@dataclass(frozen=True)
class _Timed:
    frame: VideoFrame
    pts: int


@dataclass(frozen=True)
class _Wanted:
    """The part of the video that is handed over."""

    start: Fraction | None
    end: Fraction | None
    after_pts: int | None


def _seek(job: Job, wanted: _Wanted) -> None:
    """Goes to the last key frame before what is wanted, where that is reliable."""
    if job.container.format.name.split(",")[0] not in _SEEKABLE:
        return
    if wanted.after_pts is not None:
        job.container.seek(wanted.after_pts, stream=job.stream)
    elif wanted.start is not None:
        job.container.seek(int(wanted.start * av.time_base))


def _timed(job: Job, wanted: _Wanted) -> Iterator[_Timed]:
    base = _time_base(job.stream)
    rate = job.stream.average_rate or job.stream.guessed_rate
    clock = Clock(round(1 / rate / base) if rate else 1)
    for frame in job.frames():
        pts = clock.pts(frame, job.counters)
        too_early = wanted.start is not None and pts * base < wanted.start
        if too_early or (wanted.after_pts is not None and pts <= wanted.after_pts):
            job.counters.skipped += 1
            continue
        if wanted.end is not None and pts * base >= wanted.end:
            job.counters.stopped_early = True
            return
        yield _Timed(frame, pts)


def _chain(first: _Timed, rest: Iterator[_Timed]) -> Iterator[_Timed]:
    yield first
    yield from rest


def _time_base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 1000)


def _colour_of(frame: VideoFrame) -> Colour:
    full_range = {1: False, 2: True}.get(int(frame.color_range))
    if full_range is None and frame.format.name.startswith("yuvj"):
        full_range = True
    return Colour(
        matrix=int(frame.colorspace),
        full_range=full_range,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
    )


def _describe(job: Job, first: _Timed, formats: list[str]) -> VideoInfo:
    frame, stream, container = first.frame, job.stream, job.container
    check_size(frame.width, frame.height, job.limits)
    depth = max(component.bits for component in frame.format.components)
    colour = _colour_of(frame)
    _check_representable(stream, frame, colour, depth)
    resolved = colour.resolved(frame.height, is_rgb=frame.format.is_rgb)
    planar = frame.format.name in _YUV420 and resolved.matrix_name is not None
    aspect = stream.sample_aspect_ratio
    return VideoInfo(
        container=container.format.name.split(",")[0],
        codec=stream.codec_context.name,
        width=frame.width,
        height=frame.height,
        pixel_format=frame.format.name,
        bit_depth=depth,
        frame_format="nv12" if planar and "nv12" in formats else "rgb24",
        time_base=_time_base(stream),
        average_rate=stream.average_rate or stream.guessed_rate,
        duration_seconds=duration_seconds(container, stream),
        start_pts=first.pts,
        start_seconds=Fraction(container.start_time or 0, av.time_base),
        frames_promised=stream.frames,
        colour=resolved,
        sample_aspect_ratio=aspect if aspect else None,
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
    if any(data.type == SideDataType.DOVI_METADATA for data in _side_data(frame)):
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
        raise _alpha_error()


def _alpha_error() -> MediaError:
    return UnsupportedMedia(
        "The video is transparent (alpha), which is not supported; flatten it first.", code="alpha"
    )


def _side_data(frame: VideoFrame) -> list[SideData]:
    """Side data of a frame. PyAV lists none of it when one has a type that it does not know."""
    try:
        return cast(list[SideData], list(frame.side_data))
    except ValueError:
        return []


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    for data in _side_data(frame):
        if data.type == SideDataType.DISPLAYMATRIX:
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
        name = context.name if context is not None else (stream.name or "unknown")
        yield StreamInfo(stream.index, stream.type, name, stream.language)


@dataclass
class _Outlet:
    inbox: Inbox
    answers: int
    memory_fd: int
    ring: Ring | None = None
    free: list[int] = field(default_factory=list)

    def open(self, size: int) -> None:
        """Waits for the parent to size the shared memory."""
        command = self.inbox.take()
        self.ring = Ring(self.memory_fd, int(command["slots"]), size)
        self.free = list(range(self.ring.slots))

    def slot(self) -> int:
        """Waits for a slot that the parent has emptied."""
        while not self.free:
            self.free.append(int(self.inbox.take()["free"]))
        return self.free.pop(0)

    def tell(self, message: Message) -> None:
        """Sends a message to the parent."""
        send(self.answers, message)


def _hand_over(job: Job, info: VideoInfo, frames: Iterator[_Timed], outlet: _Outlet) -> None:
    outlet.open(slot_bytes(info.frame_format, info.height, info.width))
    shape = (info.width, info.height, info.pixel_format)
    counters = job.counters
    for timed in frames:
        frame = timed.frame
        if (frame.width, frame.height, frame.format.name) != shape:
            raise UnusableMedia(
                f"The frames change from {shape[0]}x{shape[1]} {shape[2]} to "
                f"{frame.width}x{frame.height} {frame.format.name} after {counters.frames} frames; "
                "split the video there.",
                code="size_changed",
            )
        counters.frames += 1
        if job.limits.max_frames is not None and counters.frames > job.limits.max_frames:
            raise too_many_frames(job.limits.max_frames)
        _count(job, frame, info)
        slot = outlet.slot()
        assert outlet.ring is not None
        _store(frame, info, outlet.ring.slot(slot))
        outlet.tell(
            {
                "type": "frame",
                "slot": slot,
                "pts": timed.pts,
                "duration": max(int(frame.duration or 0), 0),
                "key": bool(frame.key_frame),
                "corrupt": bool(frame.is_corrupt),
            }
        )


def _count(job: Job, frame: VideoFrame, info: VideoInfo) -> None:
    counters = job.counters
    counters.corrupt += frame.is_corrupt
    counters.interlaced += frame.interlaced_frame
    colour = _colour_of(frame)
    if colour.problem is not None:
        raise UnsupportedMedia(f"The video changes to {colour.problem}.", code="hdr")
    if colour.resolved(frame.height, is_rgb=frame.format.is_rgb) != info.colour:
        counters.colour_changed += 1
    if job.strict and frame.is_corrupt:
        raise UnusableMedia(
            f"Frame {counters.frames} is damaged, and strict was asked for.", code="corrupt"
        )


def _store(frame: VideoFrame, info: VideoInfo, target: memoryview) -> None:
    """Writes the planes of ``frame`` into a slot, converting only what has to be."""
    if info.codec == "gif":
        _check_opaque(frame)
    own = _colour_of(frame).resolved(frame.height, is_rgb=frame.format.is_rgb)
    nv12 = info.frame_format == "nv12"
    converted = frame.reformat(
        format=info.frame_format,
        src_colorspace=own.swscale_matrix,
        dst_colorspace=(info.colour if nv12 else own).swscale_matrix,
        src_color_range=RGB_RANGE if frame.format.is_rgb else own.swscale_range,
        dst_color_range=info.colour.swscale_range if nv12 else RGB_RANGE,
        interpolation=SWSCALE_FLAGS,
        threads=1,
    )
    start = 0
    shapes = plane_shapes(info.frame_format, info.height, info.width)
    for plane, (rows, length) in zip(converted.planes, shapes, strict=True):
        strides = (plane.line_size, length)
        copy_rows(memoryview(plane), target[start:], rows, strides, length)
        start += rows * length


def _check_opaque(frame: VideoFrame) -> None:
    """GIF frames always have an alpha channel; most never use it."""
    names = [component.is_alpha for component in frame.format.components]
    if not any(names):
        return
    plane = frame.planes[0]
    pixels = memoryview(plane)
    for row in range(frame.height):
        line = bytes(pixels[row * plane.line_size : row * plane.line_size + frame.width * 4])
        if line[3::4].count(255) != frame.width:
            raise _alpha_error()


if __name__ == "__main__":
    main()
