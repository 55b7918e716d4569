"""Timed runs of a backend: distinct frames cycled, every output hashed, stages kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from engine.backends.base import Backend, BackendInfo, Lane, LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.closing import Closing
from engine.frames import Bytes, Frame, Nv12, copy_frame
from engine.gate_frames import natural_frames, to_nv12
from engine.models import Model
from engine.upscaler import Upscaler
from engine.verify import score

DISTINCT = 8
"""Inputs cycled in a run."""

CHUNK_BYTES = 1 << 22


def distinct_frames(spec: LaneSpec) -> list[Frame]:
    """:data:`DISTINCT` natural frames of the lane's size and format, no two alike."""
    frames: list[Frame] = []
    for index, (_, pixels) in enumerate(natural_frames(spec.height, spec.width)):
        moved = np.ascontiguousarray(np.roll(pixels, index, axis=1))
        nv12 = spec.format == "nv12"
        frames.append(to_nv12(moved, spec.matrix, spec.full_range) if nv12 else moved)
    return frames[:DISTINCT]


class Hasher:
    """SHA-256 of frames, in chunks on several cores: one core hashes 4096x4096 at 20 fps."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(12, os.cpu_count() or 1))

    def __call__(self, frame: Frame) -> bytes:
        """A digest of every sample of ``frame``."""
        planes = (frame.y, frame.uv) if isinstance(frame, Nv12) else (frame,)
        chunks = [
            flat[start : start + CHUNK_BYTES]
            for flat in (plane.reshape(-1) for plane in planes)
            for start in range(0, flat.size, CHUNK_BYTES)
        ]
        return hashlib.sha256(b"".join(self._pool.map(_digest, chunks))).digest()

    def close(self) -> None:
        """Ends its threads."""
        self._pool.shutdown()


def _digest(chunk: Bytes) -> bytes:
    return hashlib.sha256(chunk.data).digest()


@dataclass(slots=True)
class Run:
    """What a timed run found."""

    seconds: float = 0.0
    frames: int = 0
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    """Stage -> milliseconds, one per frame."""
    wrong: list[int] = field(default_factory=list)
    """Numbers of frames whose output was not that input's output."""

    @property
    def fps(self) -> float:
        """Frames per second of the whole run."""
        return self.frames / self.seconds

    def add(self, stage: str, milliseconds: float) -> None:
        """Notes one frame's time in a stage."""
        self.stages_ms.setdefault(stage, []).append(milliseconds)


@dataclass(frozen=True, slots=True)
class Expected:
    """What each distinct input becomes, on the backend that is measured."""

    frames: list[Frame]
    outputs: list[Frame]
    digests: list[bytes]


def expect(backend: Backend, spec: LaneSpec, hasher: Hasher) -> Expected:
    """One pass over the distinct inputs: it warms everything up and fixes the outputs."""
    frames = distinct_frames(spec)
    outputs = []
    (lane,) = backend.open_lanes(spec, 1)
    try:
        for frame in frames:
            lane.start(frame)
            outputs.append(copy_frame(lane.finish()))
    finally:
        lane.close()
    return Expected(frames, outputs, [hasher(output) for output in outputs])


def run_engine(backend: Backend, spec: LaneSpec, frames: list[Frame], count: int) -> Run:
    """One frame at a time through one lane, results left where they are.

    On a GPU the time that counts is the network's alone (its events); elsewhere start to finish.
    """
    run = Run()
    (lane,) = backend.open_lanes(spec, 1)
    try:
        for number in range(count):
            begun = time.perf_counter()
            lane.start(frames[number % len(frames)])
            lane.finish()
            elapsed_ms = (time.perf_counter() - begun) * 1000
            stages = gpu_stages(lane)
            for stage, milliseconds in stages.items():
                run.add(stage, milliseconds)
            run.add("lane", elapsed_ms)
            run.seconds += stages.get("compute", elapsed_ms) / 1000
            run.frames += 1
    finally:
        lane.close()
    return run


def gpu_stages(lane: Lane) -> dict[str, float]:
    """GPU milliseconds of the lane's last frame; empty for a lane that is not on a GPU."""
    stages: dict[str, float] = getattr(lane, "stages_ms", {})
    return stages


class WatchedBackend(Closing):
    """A backend whose lanes note their stages and the time from ``start`` to ``finish``."""

    def __init__(self, backend: Backend, run: Run) -> None:
        self._backend, self._run = backend, run

    @property
    def info(self) -> BackendInfo:
        """Of the backend inside."""
        return self._backend.info

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Lanes of the backend inside, watched."""
        return [WatchedLane(lane, self._run) for lane in self._backend.open_lanes(spec, count)]

    def close(self) -> None:
        """Leaves the backend inside open: its owner closes it."""


class WatchedLane:
    """One lane and a clock."""

    def __init__(self, lane: Lane, run: Run) -> None:
        self._lane, self._run, self._begun = lane, run, 0.0

    def start(self, frame: Frame) -> None:
        """Starts the lane and the clock."""
        self._begun = time.perf_counter()
        self._lane.start(frame)

    def finish(self) -> Frame:
        """Finishes the lane and notes its times."""
        result = self._lane.finish()
        self._run.add("latency", (time.perf_counter() - self._begun) * 1000)
        for stage, milliseconds in gpu_stages(self._lane).items():
            self._run.add(stage, milliseconds)
        return result

    def close(self) -> None:
        """Closes the lane."""
        self._lane.close()


def run_pipeline(
    backend: Backend, spec: LaneSpec, expected: Expected, lanes: int, count: int, hasher: Hasher
) -> Run:
    """Host frame in, host frame out, ``lanes`` in flight; every output hashed while others run."""
    run = Run()
    upscaler = Upscaler(
        WatchedBackend(backend, run), lanes, guard=False, max_pixels=spec.height * spec.width
    )
    results = upscaler.stream(cycle(expected.frames, count + lanes), spec, copy=False)
    try:
        for number in range(lanes):  # fills the pipeline: steady state begins afterwards
            _check(run, expected, number, hasher(next(results)))
        run.stages_ms.clear()  # a lane's first frame may compile or capture what others replay
        last = begun = time.perf_counter()
        for number in range(lanes, count + lanes):
            frame = next(results)
            arrived = time.perf_counter()
            digest = hasher(frame)
            now = time.perf_counter()
            run.add("hash", (now - arrived) * 1000)
            run.add("interval", (now - last) * 1000)
            last = now
            run.frames += 1
            _check(run, expected, number, digest)
        run.seconds = last - begun
    finally:
        results.close()
    return run


def _check(run: Run, expected: Expected, number: int, digest: bytes) -> None:
    if digest != expected.digests[number % len(expected.digests)]:
        run.wrong.append(number)


def cycle(frames: list[Frame], count: int) -> Iterator[Frame]:
    """``count`` frames, the distinct ones over and over."""
    for number in range(count):
        yield frames[number % len(frames)]


def worst_psnr_db(model: Model, spec: LaneSpec, expected: Expected, count: int = DISTINCT) -> float:
    """PSNR of the worst of the first ``count`` outputs against FP32 ONNX Runtime; infinite when
    all are equal."""
    worst = float("inf")
    pairs = list(zip(expected.frames, expected.outputs, strict=True))[:count]
    with OnnxRuntimeBackend(model) as judge:
        (lane,) = judge.open_lanes(spec, 1)
        for frame, output in pairs:
            lane.start(frame)
            worst = min(worst, score("frame", output, lane.finish()).psnr_db)
        lane.close()
    return worst
