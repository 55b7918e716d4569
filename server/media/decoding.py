"""Frames out of an opened file, in order, with times that grow. Runs in the decode child."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from server.media.errors import MediaError, UnusableMedia
from server.media.limits import Limits
from server.media.rational import fraction

SEEKABLE = frozenset({"mov", "matroska"})
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


@dataclass(frozen=True)
class Timed:
    """A decoded frame and the pts that it is given."""

    frame: VideoFrame
    pts: int


@dataclass(frozen=True)
class Wanted:
    """The part of the video that is handed over."""

    start: Fraction | None
    end: Fraction | None
    after_pts: int | None
    from_pts: int | None = None
    """A key frame; seeking goes there."""
    until_pts: int | None = None
    """First pts not wanted any more."""


def seek_to(job: Job, wanted: Wanted) -> None:
    """Goes to the last key frame before what is wanted, where that is reliable."""
    if job.container.format.name.split(",")[0] not in SEEKABLE:
        return
    if wanted.from_pts is not None:
        _seek_at_most(job, wanted.from_pts)
    elif wanted.after_pts is not None:
        job.container.seek(wanted.after_pts, stream=job.stream)
    elif wanted.start is not None:
        job.container.seek(int(wanted.start * av.time_base))


def _seek_at_most(job: Job, pts: int) -> None:
    """Goes to the key frame at ``pts``, or to one before it where the index is not that good."""
    job.container.seek(pts, stream=job.stream)
    first = next(job.container.demux(job.stream), None)
    if first is not None and first.pts is not None and first.pts <= pts:
        job.container.seek(pts, stream=job.stream)
    else:
        job.container.seek(0)


def timed_frames(job: Job, wanted: Wanted) -> Iterator[Timed]:
    """The frames that are wanted, in presentation order, each with a pts of its own."""
    base = time_base(job.stream)
    rate = frame_rate(job.stream)
    clock = Clock(round(1 / rate / base) if rate else 1)
    for frame in job.frames():
        pts = clock.pts(frame, job.counters)
        too_early = wanted.start is not None and pts * base < wanted.start
        too_early = too_early or (wanted.from_pts is not None and pts < wanted.from_pts)
        if too_early or (wanted.after_pts is not None and pts <= wanted.after_pts):
            job.counters.skipped += 1
            continue
        too_late = wanted.end is not None and pts * base >= wanted.end
        if too_late or (wanted.until_pts is not None and pts >= wanted.until_pts):
            job.counters.stopped_early = True
            return
        yield Timed(frame, pts)


def time_base(stream: VideoStream) -> Fraction:
    """Seconds per tick of a stream; a millisecond when it does not say."""
    return fraction(stream.time_base) or Fraction(1, 1000)


def frame_rate(stream: VideoStream) -> Fraction | None:
    """Frames per second as far as the container or the first frames say."""
    return fraction(stream.average_rate) or fraction(stream.guessed_rate)


def nothing_error(job: Job) -> MediaError:
    """Why there is not a single frame."""
    if job.counters.skipped or job.counters.stopped_early:
        return UnusableMedia(
            "There is no frame between start and end; choose another range.", code="empty_range"
        )
    if job.counters.decode_errors:
        return UnusableMedia("No frame of the video can be decoded; it is damaged.", code="corrupt")
    return UnusableMedia("The video has no frames.", code="no_frames")
