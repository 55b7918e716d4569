"""The frames on which backends are compared: natural ones, and ones that hurt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import LaneSpec
from engine.colour import colour_map
from engine.frames import Bytes, Frame, Nv12
from engine.models import MODELS_DIR


@dataclass(frozen=True, slots=True)
class GateFrame:
    """One input of the gate."""

    name: str
    frame: Frame


def gate_frames(spec: LaneSpec) -> Iterator[GateFrame]:
    """Eight natural and eight hostile frames of the lane's size and format, always the same."""
    height, width = spec.height, spec.width
    for name, pixels in [*natural_frames(height, width), *hostile_frames(height, width)]:
        nv12 = spec.format == "nv12"
        frame = to_nv12(pixels, spec.matrix, spec.full_range) if nv12 else pixels
        yield GateFrame(name, frame)


def natural_frames(height: int, width: int) -> Iterator[tuple[str, Bytes]]:
    """Photographs, a screen and a drawing (all CC0), mirrored at their edges to fill the size."""
    with np.load(MODELS_DIR / "natural_frames.npz") as archive:
        pictures: Bytes = archive["frames"]
    for index, picture in enumerate(pictures):
        rows, columns = picture.shape[:2]
        padding = ((0, max(0, height - rows)), (0, max(0, width - columns)), (0, 0))
        filled = np.pad(picture, padding, mode="symmetric")
        yield f"natural {index}", np.ascontiguousarray(filled[:height, :width])


def hostile_frames(height: int, width: int) -> Iterator[tuple[str, Bytes]]:
    """Extremes, noise, one-pixel patterns and gradients."""
    y, x = np.mgrid[:height, :width]
    generator = np.random.default_rng(0)
    # Not 255: slopes of whole levels put every result on a half, where rounding is a coin toss.
    across, down = x * 203 // max(1, width - 1), y * 241 // max(1, height - 1)
    yield "black", np.zeros((height, width, 3), np.uint8)
    yield "white", np.full((height, width, 3), 255, np.uint8)
    yield "noise", generator.integers(0, 256, (height, width, 3), np.uint8)
    yield "columns", _grey(x % 2 * 255)
    yield "rows", _grey(y % 2 * 255)
    yield "checkerboard", _grey((x + y) % 2 * 255)
    yield "gradient", _grey(across)
    yield "colours", np.stack([across, down, 255 - across], -1).astype(np.uint8)


def _grey(levels: NDArray[np.int64]) -> Bytes:
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


def to_nv12(pixels: Bytes, matrix: str = "bt709", full_range: bool = False) -> Nv12:
    """(H, W, 3) -> nv12, each chroma sample the mean of its 2x2 pixels, odd edges repeated."""
    colours = colour_map(matrix, full_range)
    samples = pixels.astype(np.float64) / 255 @ colours.from_rgb.T + colours.offset
    height, width = pixels.shape[:2]
    chroma = np.pad(samples[..., 1:], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    chroma = chroma.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, 2).mean((1, 3))
    y, uv = (np.clip(p.round(), 0, 255).astype(np.uint8) for p in (samples[..., 0], chroma))
    return Nv12(np.ascontiguousarray(y), uv)


def to_rgb24(frame: Nv12, matrix: str = "bt709", full_range: bool = False) -> Bytes:
    """nv12 -> (H, W, 3), each chroma sample repeated 2x2."""
    colours = colour_map(matrix, full_range)
    height, width = frame.y.shape
    chroma = frame.uv.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    samples = np.concatenate([frame.y[..., None], chroma], axis=2) - colours.offset
    rgb = samples @ colours.to_rgb.T * 255
    return np.clip(rgb.round(), 0, 255).astype(np.uint8)
