"""The middle of every video job: decoded frames through the upscaler, in order, with their times.

The one-shot session and the segmented job both iterate over a ``FrameFlow`` and only differ in
where they put what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.backends.base import BackendInfo, LaneSpec
from engine.frames import Frame, Nv12
from server.media.decode import Decoder
from server.media.probe import VideoInfo
from server.media.timing import StageTimes

LONGEST_STILL = 100
"""Frames in a row that share one result; the next one is upscaled again. Repetitions come out after
their successor, so without an end a still picture would show no progress for minutes."""


class FrameUpscaler(Protocol):
    """What a video job needs of ``engine.upscaler.Upscaler``."""

    @property
    def info(self) -> BackendInfo:
        """Who really runs the frames."""

    def stream(
        self, frames: Iterator[Frame], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        """Frames x4, in order; without ``copy`` each is valid until the next is asked for."""


@dataclass(frozen=True, slots=True)
class Upscaled:
    """One frame of the result."""

    frame: Frame | None
    """Valid until the next is asked for; None: exactly like the previous one."""
    pts: int
    """In the ``time_base`` of the source."""
    duration: int


@dataclass(slots=True)
class _Moment:
    pts: int
    duration: int


class FrameFlow:
    """Iterate once; afterwards ``ledger`` holds every pts that came out."""

    def __init__(
        self,
        decoder: Decoder,
        upscaler: FrameUpscaler,
        check: Callable[[], None],
        *,
        reuse_duplicates: bool = True,
        shift: int = 0,
        fresh_at: Collection[int] = (),
    ) -> None:
        """Prepares the flow.

        Args:
            decoder: where the frames come from; iterated by the flow.
            upscaler: runs them; stays open.
            check: called for every frame, repetitions as soon as they are seen; raises to stop.
            reuse_duplicates: take the previous result for an exact repetition, up to
                ``LONGEST_STILL`` frames long.
            shift: subtracted from every pts.
            fresh_at: pts (before the shift) of frames that are never taken for repetitions.
        """
        self._decoder = decoder
        self._upscaler = upscaler
        self._check = check
        self._reuse = reuse_duplicates
        self._shift = shift
        self._fresh_at = frozenset(fresh_at)
        self._moments: list[list[_Moment]] = []
        self.times = StageTimes()
        self.ledger: list[int] = []
        self.reused = 0

    def __iter__(self) -> Iterator[Upscaled]:
        """Every frame, in presentation order."""
        spec = lane_spec(self._decoder.info)
        with closing(self._upscaler.stream(self._unique(), spec, copy=False)) as results:
            previous: list[_Moment] = []
            for index, frame in enumerate(self.times.each("upscale", results)):
                # Repetitions of a frame are all known once its successor has been upscaled.
                yield from self._repeats(previous)
                previous = self._moments[index]
                self._moments[index] = []
                yield self._out(frame, previous[0])
            yield from self._repeats(previous)

    def _repeats(self, moments: list[_Moment]) -> Iterator[Upscaled]:
        for moment in moments[1:]:
            self.reused += 1
            yield self._out(None, moment)

    def _out(self, frame: Frame | None, moment: _Moment) -> Upscaled:
        self._check()
        self.ledger.append(moment.pts)
        return Upscaled(frame, moment.pts, moment.duration)

    def _unique(self) -> Iterator[Frame]:
        """Frames that differ from their predecessor; when each is shown goes into the moments."""
        previous: Frame | None = None
        current: list[_Moment] = []
        for decoded in self.times.each("decode", iter(self._decoder), inside="upscale"):
            moment = _Moment(decoded.pts - self._shift, decoded.duration)
            reusable = self._reuse and decoded.pts not in self._fresh_at
            still = reusable and len(current) < LONGEST_STILL
            if still and previous is not None and _equal(previous, decoded.frame):
                self._check()
                current.append(moment)
                continue
            current = [moment]
            self._moments.append(current)
            previous = decoded.frame
            yield decoded.frame


def lane_spec(info: VideoInfo) -> LaneSpec:
    """What the engine's lanes must take for the frames of a video."""
    return LaneSpec(
        info.height,
        info.width,
        "nv12" if info.frame_format == "nv12" else "rgb24",
        info.colour.matrix_name or "bt709",
        bool(info.colour.full_range),
    )


def _equal(previous: Frame, frame: Frame) -> bool:
    if isinstance(frame, Nv12) and isinstance(previous, Nv12):
        return np.array_equal(previous.y, frame.y) and np.array_equal(previous.uv, frame.uv)
    return (
        not isinstance(frame, Nv12)
        and not isinstance(previous, Nv12)
        and np.array_equal(previous, frame)
    )
