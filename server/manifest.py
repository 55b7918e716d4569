"""What happened to a video, as plain data: proof for the user, JSON for everyone else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

SCHEMA = 1
_PERCENTILES = ("p50_ms", "p95_ms", "p99_ms")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record of one finished video. Frame counts are equal or there is no manifest."""

    frames_in: int
    """Frames that the decoder emitted (in the range asked for)."""
    frames_out: int
    """Frames that left the upscaler, repeated ones included."""
    frames_encoded: int
    frames_reused: int
    """Exact repetitions whose result was used again."""
    frames_skipped: int
    """Decoded before the start that was asked for."""
    corrupt_frames: int
    decode_errors: int
    pts_sha256: str
    """SHA-256 over ``numerator/denominator`` lines of every pts in seconds, in order."""
    time_base: str
    first_pts_seconds: str
    """A fraction."""
    last_pts_seconds: str
    input: dict[str, Any]
    """Container, codec, size, pixel format, colour, average rate."""
    output: dict[str, Any]
    """Container, codec, size, colour, clock."""
    input_truncated: bool
    copied: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    """Streams that are not in the output, each with a reason."""
    backend: dict[str, Any]
    """Who really ran the frames, with the hash chain of its model."""
    stages: dict[str, dict[str, float]]
    """Stage -> ``p50_ms``, ``p95_ms``, ``p99_ms`` per frame; in memory also a histogram, see
    ``server.media.timing.percentiles``."""
    seconds: float
    fps: float
    warnings: list[str] = field(default_factory=list)
    frame_memory: dict[str, str] = field(default_factory=dict)
    """Where frames were decoded to and encoded from: ``host`` or device memory; the ``reason`` for
    the host."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Indented JSON, ending in a newline."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON values; of the stages only the percentiles."""
        stages = {
            stage: {name: value for name, value in times.items() if name in _PERCENTILES}
            for stage, times in self.stages.items()
        }
        return {**asdict(self), "stages": stages}


def manifest_from_dict(values: dict[str, Any]) -> Manifest:
    """The inverse of ``Manifest.to_dict``. Raises TypeError for other fields."""
    return Manifest(**values)


def pts_sha256(ledger: Iterable[int], time_base: Fraction) -> str:
    """The hash of ``Manifest.pts_sha256`` for pts in ``time_base`` units."""
    digest = hashlib.sha256()
    for pts in ledger:
        seconds = pts * time_base
        digest.update(f"{seconds.numerator}/{seconds.denominator}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
