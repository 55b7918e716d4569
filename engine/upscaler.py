"""Frames in, frames x4 out, in order, N of them in flight.

Knows lanes and strips; not files, codecs, HTTP or clocks. Frames that a lane can hold go through
whole; larger ones go through in row strips whose halo makes the result the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from engine.backends.base import Backend, BackendInfo, Lane, LaneSpec
from engine.closing import Closing
from engine.device import (
    AnyFrame,
    DeviceBackend,
    DeviceMemory,
    DeviceNv12,
    MeasuredBackend,
    MemoryUse,
    why_not,
)
from engine.device_stream import stream_on_device
from engine.errors import ContractError, OutOfMemory
from engine.frames import (
    Frame,
    check_frame,
    copy_frame,
    empty_frame,
    frame_format,
    frame_size,
    output_size,
)
from engine.guard import check_result
from engine.strips import Strip, cut, paste, plan_strips


class Upscaler(Closing):
    """Runs frames through a backend that it owns. For one thread at a time.

    Args:
        backend: closed together with the upscaler.
        lanes: frames in flight in :meth:`stream`.
        guard: compare every result with its input and refuse a wrong one.
        max_pixels: larger frames (in input pixels) are processed in strips; None is what the
            backend says.
    """

    def __init__(
        self,
        backend: Backend,
        lanes: int = 2,
        guard: bool = True,
        *,
        max_pixels: int | None = None,
    ) -> None:
        if lanes < 1 or (max_pixels is not None and max_pixels < 1):
            raise ValueError(f"lanes and max_pixels must be >= 1, got {lanes} and {max_pixels}")
        self._backend = backend
        self._lane_count = lanes
        self._guard = guard
        self._max_pixels = max_pixels or backend.info.max_pixels
        self._still: tuple[LaneSpec, Lane] | None = None
        self._turn = 0

    @property
    def info(self) -> BackendInfo:
        """Who really runs the frames."""
        return self._backend.info

    def upscale(self, frame: Frame, *, matrix: str = "bt709", full_range: bool = False) -> Frame:
        """One frame, 4x the size, in the same format; the caller owns it.

        Args:
            frame: rgb24 or nv12, of any size.
            matrix: colour matrix of nv12 samples.
            full_range: whether nv12 samples span 0..255.

        Raises:
            ContractError: not a frame.
            OutOfMemory: not even a thin strip of it fits.
            EngineFault: the backend failed or its result is wrong.
        """
        height, width = frame_size(frame)
        spec = LaneSpec(height, width, frame_format(frame), matrix, full_range)
        limit = self._max_pixels
        while True:
            try:
                if height * width <= limit:
                    return self._upscale_whole(frame, spec)
                with closing(self._stream([frame], spec, limit, copy=True)) as results:
                    return next(results)
            except OutOfMemory:
                limit = self._smaller(limit, spec)
                if not limit:
                    raise

    def stream(
        self, frames: Iterable[Frame | None], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        """Frames of one shape, in order, with several in flight.

        An exception raised by ``frames`` or by the backend surfaces at the frame it belongs to,
        after the results of all earlier ones. Lanes are closed however the iteration ends; call
        ``close`` on the generator when you stop early.

        Args:
            frames: all of the shape of ``spec``; not to be written to until their result is out.
                None from a live source says that there is no frame yet: what is in flight comes
                out before it is asked again.
            spec: shape, format and colours.
            copy: give away copies. Without it a result is valid until the next is asked for.

        Yields:
            the frame 4x the size, in the same format.

        Raises:
            ContractError: a frame is not of the shape of ``spec``.
            OutOfMemory: not even lanes for thin strips fit, or memory ran out later.
            EngineFault: the backend failed or a result is wrong.
        """
        return self._stream(frames, spec, self._max_pixels, copy)

    @property
    def memory(self) -> DeviceMemory | None:
        """The device's memory, when the backend's frames can stay there; else None."""
        return self._backend.memory if isinstance(self._backend, DeviceBackend) else None

    def memory_use(self) -> MemoryUse | None:
        """How full the backend's device is, if it has memory of its own; else None.

        From any thread, also while frames run.

        Raises:
            EngineFault: the device failed.
        """
        return self._backend.memory_use() if isinstance(self._backend, MeasuredBackend) else None

    def host_only(self, spec: LaneSpec) -> str:
        """Why frames of ``spec`` cannot stay on the device; empty when they can."""
        if self.memory is None:
            return f"{self.info.name} keeps frames on the host"
        if spec.height * spec.width > self._max_pixels:
            return f"{spec.width}x{spec.height} frames go through in strips"
        return why_not(spec.height, spec.width, spec.format)

    def stream_on_device(self, frames: Iterable[AnyFrame], spec: LaneSpec) -> Generator[DeviceNv12]:
        """Like :meth:`stream`, for a shape whose :meth:`host_only` is empty; frames may be on the
        host or on the device, results stay there and are valid until the next is asked for.

        Raises:
            ContractError: a frame of another shape, or such frames cannot stay on the device.
            OutOfMemory, EngineFault: as ``stream``.
        """
        if (reason := self.host_only(spec)) or not isinstance(self._backend, DeviceBackend):
            raise ContractError(f"frames cannot stay on the device: {reason}")
        lanes = self._backend.open_device_lanes(spec, self._lane_count)
        return stream_on_device(lanes, frames, guard=self._guard)

    def close(self) -> None:
        """Closes the lanes and the backend; harmless when called twice."""
        self._close_still()
        self._backend.close()

    def _upscale_whole(self, frame: Frame, spec: LaneSpec) -> Frame:
        """Through a lane that is kept, because the next picture often has the same shape."""
        if self._still is None or self._still[0] != spec:
            self._close_still()
            self._still = (spec, self._backend.open_lanes(spec, 1)[0])
        lane = self._still[1]
        try:
            lane.start(frame)
            return copy_frame(self._finish(lane, frame))
        except BaseException:
            self._close_still()
            raise

    def _close_still(self) -> None:
        if self._still is not None:
            self._still[1].close()
            self._still = None

    def _stream(
        self, frames: Iterable[Frame | None], spec: LaneSpec, limit: int, copy: bool
    ) -> Generator[Frame]:
        lanes, strips = self._open_fitting(spec, limit)
        if len(strips) == 1:
            yield from self._run(lanes, frames, copy)
            return
        windows = _windows(frames, spec, strips)
        with closing(self._run(lanes, windows, copy=False)) as results:
            for first in results:
                picture = empty_frame(*output_size(spec.height, spec.width), spec.format)
                paste(picture, strips[0], first)
                for strip in strips[1:]:
                    paste(picture, strip, next(results))
                yield picture

    def _open_fitting(self, spec: LaneSpec, limit: int) -> tuple[list[Lane], list[Strip]]:
        """Lanes for the largest windows that fit, and the strips that they make of a frame."""
        while True:
            strips = plan_strips(spec.height, spec.width, self._halo(spec), limit)
            window = replace(spec, height=strips[0].rows)
            try:
                return self._backend.open_lanes(window, self._lane_count), strips
            except OutOfMemory:
                limit = self._smaller(limit, spec)
                if not limit:
                    raise

    def _smaller(self, limit: int, spec: LaneSpec) -> int:
        """The next limit to try when memory ran out; 0 when strips cannot get any thinner."""
        half = min(limit, spec.height * spec.width) // 2
        return half if half >= spec.width * (2 * self._halo(spec) + 2) else 0

    def _halo(self, spec: LaneSpec) -> int:
        """Rows around a pixel that can change it: nv12 chroma is interpolated from one more."""
        return self.info.halo + (1 if spec.format == "nv12" else 0)

    def _run(
        self, lanes: list[Lane], frames: Iterable[Frame | None], copy: bool
    ) -> Generator[Frame]:
        """Frames through the lanes, which are closed at the end."""
        try:
            free, busy = deque(lanes), deque[tuple[Lane, Frame]]()
            failure = self._fill(source := iter(frames), free, busy)
            while busy or failure is None:
                if busy:
                    lane, frame = busy.popleft()
                    result = self._finish(lane, frame)
                    yield copy_frame(result) if copy else result
                    free.append(lane)
                failure = failure or self._fill(source, free, busy)
            if failure is not None and not isinstance(failure, StopIteration):
                raise failure
        finally:
            for lane in lanes:
                lane.close()

    def _fill(
        self, source: Iterator[Frame | None], free: deque[Lane], busy: deque[tuple[Lane, Frame]]
    ) -> Exception | None:
        """Starts a frame on every free lane; returns what ended the source, if anything did."""
        while free:
            try:
                frame = next(source)
                if frame is None:
                    return None
                free[0].start(frame)
            except Exception as failure:  # kept until the results of earlier frames are out
                return failure
            busy.append((free.popleft(), frame))
        return None

    def _finish(self, lane: Lane, frame: Frame) -> Frame:
        result = lane.finish()
        if self._guard:
            check_result(frame, result, self._turn)
            self._turn += 1
        return result


def _windows(
    frames: Iterable[Frame | None], spec: LaneSpec, strips: list[Strip]
) -> Iterator[Frame | None]:
    """The strips of every frame. Raises ContractError for a frame of another shape."""
    for frame in frames:
        if frame is None:
            yield None
            continue
        check_frame(frame, spec.format, spec.height, spec.width)
        for strip in strips:
            yield cut(frame, strip)
