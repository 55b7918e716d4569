"""The proof: what one run measured, as the JSON that ``proof.schema.json`` describes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA_PATH = Path(__file__).with_name("proof.schema.json")

TARGET_FPS = 60.0
TARGET_SIZE = (1024, 1024)
TARGET_FRAMES = 600
SLOWEST_PERIODS = 2.0
"""p99 of the time between two frames, in frame periods: 33 ms at 60 fps."""

MIN_PSNR_DB = 50.0


@dataclass(frozen=True, slots=True)
class Proof:
    """The last line of ``bench/fps.py``; field by field as in DESIGN.md."""

    device: str
    driver: str
    versions: dict[str, str]
    backend: str
    model: str
    trained: bool
    verified: bool
    onnx_sha256: str
    plan_sha256: str
    size: str
    format: str
    mode: str
    frames: int
    dropped: int
    stages: dict[str, dict[str, float]]
    fps_engine: float | None
    fps_pipeline: float | None
    fps_file: float | None
    psnr_db: float | None
    psnr_frames: int
    verdict: str
    bottleneck: str
    git_commit: str
    command: str
    schema: int = 1

    def to_line(self) -> str:
        """Compact JSON on one line. Raises ValueError for NaN and infinity."""
        ordered = {"schema": self.schema, **asdict(self)}
        return json.dumps(ordered, separators=(",", ":"), allow_nan=False)


def schema() -> dict[str, Any]:
    """The JSON Schema of a proof."""
    loaded: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return loaded


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in ms, rounded to microseconds."""
    values = np.percentile(np.asarray(milliseconds, np.float64), (50, 95, 99))
    names = ("p50_ms", "p95_ms", "p99_ms")
    return {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a verdict is about."""

    required_fps: float
    fps: float
    size: tuple[int, int]
    """(height, width) of the input."""
    frames: int
    dropped: int
    interval_p99_ms: float
    """Of the time between two finished frames."""
    wrong: str
    """What was wrong with the outputs; empty when nothing was."""


def verdict(claim: Claim) -> str:
    """``PASS ...`` or ``FAIL ...`` with what was asked, what was found, and at which size."""
    height, width = claim.size
    asked = f"{claim.required_fps:g} fps at {width}x{height}"
    if claim.size != TARGET_SIZE:
        asked += " (the target is 1024x1024)"
    reasons = shortcomings(claim)
    if reasons:
        return f"FAIL {asked}: {'; '.join(reasons)}"
    return f"PASS {asked}: {claim.fps:.1f} fps"


def shortcomings(claim: Claim) -> list[str]:
    """Why a claim does not hold; empty when it does."""
    found = []
    if claim.wrong:
        found.append(claim.wrong)
    if claim.dropped:
        found.append(f"{claim.dropped} of {claim.frames} frames dropped")
    if claim.fps < claim.required_fps:
        found.append(f"{claim.fps:.2f} fps")
    limit_ms = SLOWEST_PERIODS * 1000 / claim.required_fps
    if claim.interval_p99_ms > limit_ms:
        found.append(f"p99 between frames {claim.interval_p99_ms:.1f} ms > {limit_ms:.1f} ms")
    real = claim.size == TARGET_SIZE and claim.required_fps >= TARGET_FPS
    if real and claim.frames < TARGET_FRAMES:
        found.append(f"only {claim.frames} frames, {TARGET_FRAMES} are needed")
    return found
