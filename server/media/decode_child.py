"""The process that parses and decodes user bytes: ``python -m server.media.decode_child FD``.

Reads one command from standard input, answers on standard output, puts frames into the shared
memory ``FD``. Never imports NumPy: its start would cost as much as everything else together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import VideoFrame

from server.media.child import errors_reported
from server.media.colour import RGB_RANGE, SWSCALE_FLAGS
from server.media.decoding import Job, Timed, Wanted, nothing_error, seek_to, timed_frames
from server.media.description import alpha_error, colour_of, describe
from server.media.errors import UnsupportedMedia, UnusableMedia
from server.media.key_frames import scan
from server.media.limits import Limits
from server.media.open import (
    choose_video,
    open_container,
    too_many_frames,
)
from server.media.probe import VideoInfo, info_from_message, info_to_message
from server.media.sandbox import confine, isolate, limit
from server.media.wire import Inbox, Message, Ring, copy_rows, plane_shapes, send, slot_bytes


def main() -> None:
    """Runs one job; the exit status is 0 unless the process itself failed."""
    memory_fd = int(sys.argv[1])
    cut_off = isolate()  # while there is one thread: a new user namespace needs that
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    inbox = Inbox(0)
    av.logging.set_level(None)
    with errors_reported(answers, "decoded"):
        _run(inbox, _Outlet(inbox, answers, memory_fd), cut_off)


def _run(inbox: Inbox, outlet: _Outlet, cut_off: dict[str, bool]) -> None:
    command = inbox.first()
    limits, source = Limits(**command["limits"]), Path(command["source"])
    limit(
        memory_bytes=limits.decode_memory_bytes,
        cpu_seconds=limits.decode_cpu_seconds,
        may_write_files=False,
    )
    cut_off = {**cut_off, **confine(reads=[source])}
    inbox.start()
    with open_container(source, limits) as container:
        stream = choose_video(container, limits)
        job = Job(container, stream, limits, bool(command["strict"]))
        if command.get("scan"):
            outlet.tell(scan(job, outlet.tell))
            return
        origin = Fraction(container.start_time or 0, av.time_base)
        start, end = (
            None if command[name] is None else origin + Fraction(str(command[name]))
            for name in ("start_seconds", "end_seconds")
        )
        places = (command.get(name) for name in ("after_pts", "from_pts", "until_pts"))
        wanted = Wanted(start, end, *places)
        seek_to(job, wanted)
        frames = timed_frames(job, wanted)
        first = next(frames, None)
        if first is None:
            raise nothing_error(job)
        info = replace(_describe(job, first, command), sandbox=cut_off)
        outlet.tell({"type": "head", "info": info_to_message(info)})
        _hand_over(job, info, _chain(first, frames), outlet)
    outlet.tell({"type": "end", **job.counters.__dict__})


def _describe(job: Job, first: Timed, command: Message) -> VideoInfo:
    """What the video is; a part of one is what the whole was said to be."""
    described = command.get("described")
    if described is not None:
        return info_from_message(described)
    return describe(job, first, command["formats"])


def _chain(first: Timed, rest: Iterator[Timed]) -> Iterator[Timed]:
    yield first
    yield from rest


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


def _hand_over(job: Job, info: VideoInfo, frames: Iterator[Timed], outlet: _Outlet) -> None:
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
    colour = colour_of(frame)
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
    own = colour_of(frame).resolved(frame.height, is_rgb=frame.format.is_rgb)
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
            raise alpha_error()


if __name__ == "__main__":
    main()
