"""The gate: does a backend compute what the weights say? Compared with FP32 ONNX Runtime.

It knows only the Protocols, so that it judges a plan, an FP16 graph or a backend of tomorrow alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from engine.backends.base import Backend, BackendInfo, LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.errors import ContractError
from engine.frames import Bytes, Frame, Nv12
from engine.gate_frames import gate_frames
from engine.models import Model

MIN_PSNR_DB = 50.0
MAX_DIFFERENCE = 4
"""Grey levels, anywhere."""
MEAN_DIFFERENCE = 0.2
"""Grey levels, average over all frames. Not of each frame: on a flat one whose exact result lies
on a half, all samples round one way in FP32 and the other in FP16, though both are right."""

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class FrameScore:
    """How one frame compares with its reference, over all planes."""

    name: str
    psnr_db: float
    """Infinite when the frames are equal."""
    max_difference: int
    mean_difference: float

    @property
    def passed(self) -> bool:
        """Whether the limits that every frame must keep hold."""
        return self.psnr_db >= MIN_PSNR_DB and self.max_difference <= MAX_DIFFERENCE


@dataclass(frozen=True, slots=True)
class GateReport:
    """What the gate found out about a backend."""

    backend: BackendInfo
    spec: LaneSpec
    scores: list[FrameScore]

    @property
    def mean_difference(self) -> float:
        """Grey levels, over all frames (they have one size)."""
        return sum(score.mean_difference for score in self.scores) / max(1, len(self.scores))

    @property
    def passed(self) -> bool:
        """Whether every frame passed, and all together keep the mean."""
        return (
            bool(self.scores)
            and all(score.passed for score in self.scores)
            and self.mean_difference <= MEAN_DIFFERENCE
        )

    @property
    def worst(self) -> FrameScore:
        """The frame with the lowest PSNR."""
        return min(self.scores, key=lambda score: score.psnr_db)

    def to_dict(self) -> dict[str, object]:
        """For JSON: an infinite PSNR is null."""
        scores = [
            asdict(score)
            | {"psnr_db": score.psnr_db if math.isfinite(score.psnr_db) else None}
            | {"passed": score.passed}
            for score in self.scores
        ]
        return {
            "passed": self.passed,
            "mean_difference": self.mean_difference,
            "backend": asdict(self.backend),
            "spec": asdict(self.spec),
            "limits": {
                "min_psnr_db": MIN_PSNR_DB,
                "max_difference": MAX_DIFFERENCE,
                "mean_difference": MEAN_DIFFERENCE,
            },
            "frames": scores,
        }


def run_gate(
    backend: Backend,
    model: Model,
    spec: LaneSpec,
    *,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> GateReport:
    """Runs natural and hostile frames through ``backend`` and through FP32 ONNX Runtime.

    Args:
        backend: what is judged; it stays open.
        model: the weights it should hold.
        spec: size, format and colours of the frames.
        threads: cores of the reference; None is all.
        on_progress: told (name of the frame, fraction done) after each.

    Raises:
        EngineFault: either side failed on a frame.
    """
    frames = list(gate_frames(spec))
    scores = []
    lane = backend.open_lanes(spec, 1)[0]
    try:
        with OnnxRuntimeBackend(model, threads) as judge:
            reference = judge.open_lanes(spec, 1)[0]
            for index, gate_frame in enumerate(frames):
                lane.start(gate_frame.frame)
                reference.start(gate_frame.frame)
                scores.append(score(gate_frame.name, lane.finish(), reference.finish()))
                if on_progress:
                    on_progress(gate_frame.name, (index + 1) / len(frames))
    finally:
        lane.close()
    return GateReport(backend.info, spec, scores)


def score(name: str, found: Frame, expected: Frame) -> FrameScore:
    """Compares two frames. Raises ContractError when their shapes differ."""
    total = squares = samples = largest = 0
    for a, b in zip(planes(found), planes(expected), strict=True):
        if a.shape != b.shape:
            raise ContractError(f"{name}: the backend gave {a.shape}, expected {b.shape}")
        # Row by row: a 4096x4096 frame as float64 would need 400 MB.
        for row_a, row_b in zip(a, b, strict=True):
            difference = np.abs(row_a.astype(np.int32) - row_b)
            total += int(difference.sum())
            squares += int((difference * difference).sum())
            largest = max(largest, int(difference.max(initial=0)))
        samples += a.size
    psnr_db = 10 * math.log10(255**2 * samples / squares) if squares else math.inf
    return FrameScore(name, psnr_db, largest, total / samples)


def planes(frame: Frame) -> tuple[Bytes, ...]:
    """The arrays of a frame."""
    return (frame.y, frame.uv) if isinstance(frame, Nv12) else (frame,)
