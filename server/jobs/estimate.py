"""What a job would take, from its header and the calibration. An estimate, and says so."""

from __future__ import annotations

from typing import Any

from engine.contract import SCALE

BITS_PER_OUTPUT_PIXEL = 0.06
"""Of libx264 at its default quality on upscaled camera video (city and dog clips: 0.04 to 0.08)."""


def estimate(
    probe: dict[str, Any],
    options: dict[str, Any],
    input_bytes: int,
    calibration: dict[str, Any] | None,
) -> dict[str, Any]:
    """The body of a dry run.

    Args:
        probe: width, height, frames, … of the input.
        options: what was asked for.
        input_bytes: size of the upload.
        calibration: with ``fps`` and ``size``; None leaves the time unknown.
    """
    width, height = _output_size(probe, options)
    frames = probe["frames"]
    fps = None
    if calibration is not None and calibration.get("fps"):
        measured_width, measured_height = map(int, calibration["size"].split("x"))
        pixels_per_second = calibration["fps"] * measured_width * measured_height
        fps = round(pixels_per_second / (probe["width"] * probe["height"]), 2)
    seconds = round(frames / fps, 1) if frames and fps else None
    size = None
    if frames:
        size = round(frames * width * height * BITS_PER_OUTPUT_PIXEL / 8)
    return {
        "dry_run": True,
        "input": {**probe, "bytes": input_bytes},
        "output": {"width": width, "height": height, "frames": frames},
        "estimated_fps": fps,
        "estimated_seconds": seconds,
        "estimated_bytes": size,
    }


def _output_size(probe: dict[str, Any], options: dict[str, Any]) -> tuple[int, int]:
    width, height = probe["width"] * SCALE, probe["height"] * SCALE
    if "size" in options:
        return int(options["size"][0]), int(options["size"][1])
    if "height" in options:
        wanted = int(options["height"])
        return max(round(width * wanted / height), 1), wanted
    return width, height
