"""What a job would take, from its header and from what was measured. An estimate, and says so."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any

from engine.contract import SCALE
from server.media.codecs import CODECS, DEFAULT_CODEC, find_codec


@dataclass(frozen=True, slots=True)
class _Bits:
    """Of a pixel of a result, as ``bench/result_size.py`` measured them."""

    at_default: float
    """Bits a pixel at the codec's own quality."""
    halved_by: float
    """Steps of quality that halve them."""


_BITS = {
    "H.264": _Bits(0.115, 4.6),
    "HEVC": _Bits(0.054, 4.9),
    "AV1": _Bits(0.05, 8.9),
}
"""By the name of the format: the encoders of a GPU are taken to be like those of the CPU."""

SPREAD = 2.5
"""Of 96 results of four clips half were within a factor of 1.3 of the estimate, nine in ten within
1.8, the worst at 2.52 (bench/results/result-size.json): content decides more than the codec."""

_KEPT = 5


class Throughput:
    """Pixels of results a second in the videos that this server has finished, by codec."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}

    def add(self, manifest: dict[str, Any]) -> None:
        """Takes a finished video into account."""
        output = manifest["output"]
        if manifest["fps"] > 0:
            recent = self._recent.setdefault(str(output["codec"]), deque(maxlen=_KEPT))
            recent.append(manifest["fps"] * output["width"] * output["height"])

    def fps(self, codec: str, width: int, height: int) -> float | None:
        """Frames a second to expect of results this large: the median of the last five."""
        recent = self._recent.get(codec)
        return median(recent) / (width * height) if recent else None


def estimate(
    probe: dict[str, Any],
    options: dict[str, Any],
    input_bytes: int,
    calibration: dict[str, Any] | None,
    throughput: Throughput,
) -> dict[str, Any]:
    """The body of a dry run.

    Args:
        probe: width, height, frames, … of the input.
        options: what was asked for.
        input_bytes: size of the upload.
        calibration: with ``fps`` and ``size`` of the engine alone; None when there was none.
        throughput: of finished videos, decoding and encoding included; better where it is known.
    """
    width, height = _output_size(probe, options)
    frames = probe["frames"]
    codec = find_codec(options.get("codec", DEFAULT_CODEC)).encoder
    fps, source = throughput.fps(codec, width, height), "finished videos"
    if fps is None:
        fps, source = _calibrated_fps(probe, calibration), "calibration of the engine alone"
    size = estimate_bytes(codec, options.get("quality"), frames, width, height) if frames else None
    return {
        "dry_run": True,
        "input": {**probe, "bytes": input_bytes},
        "output": {"width": width, "height": height, "frames": frames, "codec": codec},
        "estimated_fps": None if fps is None else round(fps, 2),
        "estimated_fps_from": None if fps is None else source,
        "estimated_seconds": round(frames / fps, 1) if frames and fps else None,
        "estimated_bytes": size,
        "estimated_bytes_least": None if size is None else round(size / SPREAD),
        "estimated_bytes_most": None if size is None else round(size * SPREAD),
    }


def estimate_bytes(codec: str, quality: int | None, frames: int, width: int, height: int) -> int:
    """Bytes of the pictures of a result; sound is copied and comes on top."""
    known = CODECS[codec]
    bits = _BITS[known.label]
    steps = 0 if quality is None else quality - known.default_quality
    return round(frames * width * height * bits.at_default * 2 ** (-steps / bits.halved_by) / 8)


def _calibrated_fps(probe: dict[str, Any], calibration: dict[str, Any] | None) -> float | None:
    if calibration is None or not calibration.get("fps"):
        return None
    measured_width, measured_height = map(int, calibration["size"].split("x"))
    pixels_per_second = float(calibration["fps"]) * measured_width * measured_height
    return pixels_per_second / (int(probe["width"]) * int(probe["height"]))


def _output_size(probe: dict[str, Any], options: dict[str, Any]) -> tuple[int, int]:
    width, height = probe["width"] * SCALE, probe["height"] * SCALE
    if "size" in options:
        return int(options["size"][0]), int(options["size"][1])
    if "height" in options:
        wanted = int(options["height"])
        return max(round(width * wanted / height), 1), wanted
    return width, height
