"""How many frames a second this engine makes on this machine: measured, not assumed.

Host frame in to host frame out, in the format that videos have, through the same lanes and the same
guard. Content differs from frame to frame, so that nothing can be reused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from engine.backends.base import Backend, BackendInfo, Lane, LaneSpec
from engine.closing import Closing
from engine.frames import Frame
from engine.gate_frames import to_nv12
from engine.upscaler import Upscaler
from server.workers.channel import Message
from server.workers.child import TaskContext

MOST_FRAMES, MOST_SECONDS = 60, 10.0
_DISTINCT = 8

Times = dict[str, list[float]]
"""Stage -> milliseconds, one per frame."""


def calibrate(backend: Backend, height: int, width: int, context: TaskContext) -> Message:
    """Runs at most 60 frames or 10 seconds of ``height`` x ``width`` after one to warm up.

    Args:
        backend: stays open.
        height, width: of the frames; nv12, or rgb24 where a side is odd.
        context: told that it goes on.

    Returns:
        ``fps``, ``frame_ms`` and ``stages_ms`` with p50, p95 and p99, ``frames``, ``size``,
        ``format`` and who ran them. Stages: ``start`` hands a frame to a lane and ``finish`` waits
        for it; on a GPU also ``copy_in``, ``compute`` and ``copy_out``.

    Raises:
        EngineError: the engine failed.
    """
    odd = height % 2 or width % 2
    spec = LaneSpec(height, width, "rgb24" if odd else "nv12")
    times: Times = {}
    frames = _distinct(spec)
    until = time.perf_counter() + MOST_SECONDS
    stamps = [time.perf_counter()]
    with Upscaler(TimedBackend(backend, times)) as upscaler:
        for _ in upscaler.stream(_cycle(frames, until), spec, copy=False):
            stamps.append(time.perf_counter())
            context.report({})
            context.raise_if_cancelled()
    times_ms = np.diff(stamps)[1:] * 1e3 if len(stamps) > 2 else np.diff(stamps) * 1e3
    info = backend.info
    return {
        "fps": round(1e3 / float(times_ms.mean()), 2),
        "frame_ms": _percentiles(times_ms.tolist()),
        "stages_ms": {stage: _percentiles(values) for stage, values in times.items()},
        "frames": len(times_ms),
        "size": f"{width}x{height}",
        "format": spec.format,
        "backend": info.name,
        "model": info.model,
        "device": info.device,
    }


class TimedBackend(Closing):
    """A backend whose lanes note how long they took; closing it leaves the one inside open."""

    def __init__(self, backend: Backend, times: Times) -> None:
        self._backend, self._times = backend, times

    @property
    def info(self) -> BackendInfo:
        """Of the backend inside."""
        return self._backend.info

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Lanes of the backend inside, timed."""
        return [_TimedLane(lane, self._times) for lane in self._backend.open_lanes(spec, count)]

    def close(self) -> None:
        """Nothing: the backend belongs to somebody else."""


class _TimedLane:
    def __init__(self, lane: Lane, times: Times) -> None:
        self._lane, self._times = lane, times

    def start(self, frame: Frame) -> None:
        began = time.perf_counter()
        self._lane.start(frame)
        self._add("start", (time.perf_counter() - began) * 1e3)

    def finish(self) -> Frame:
        began = time.perf_counter()
        result = self._lane.finish()
        self._add("finish", (time.perf_counter() - began) * 1e3)
        on_gpu: dict[str, float] = getattr(self._lane, "stages_ms", {})
        for stage, milliseconds in on_gpu.items():
            self._add(stage, milliseconds)
        return result

    def close(self) -> None:
        self._lane.close()

    def _add(self, stage: str, milliseconds: float) -> None:
        self._times.setdefault(stage, []).append(milliseconds)


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": round(p50, 2), "p95": round(p95, 2), "p99": round(p99, 2)}


def _distinct(spec: LaneSpec) -> list[Frame]:
    """Smooth pictures with some noise, no two alike."""
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(spec.height), np.arange(spec.width))[..., np.newaxis]
    noise = random.integers(0, 16, (spec.height, spec.width, 3))
    pictures = [
        ((ramp * (index + 1) // 4 + noise) % 256).astype(np.uint8) for index in range(_DISTINCT)
    ]
    if spec.format == "rgb24":
        return list(pictures)
    return [to_nv12(picture, spec.matrix, spec.full_range) for picture in pictures]


def _cycle(frames: list[Frame], until: float) -> Iterator[Frame]:
    for index in range(MOST_FRAMES + 1):
        yield frames[index % len(frames)]
        if time.perf_counter() > until:
            return
