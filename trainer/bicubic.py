"""MATLAB-exact ``imresize(..., 'bicubic')``: the low resolution everyone measures against.

Keys' cubic (a = -0.5), antialiased when shrinking (kernel widened), mirrored border, rows then
columns, rounded half up once at the end. In double precision: a float32 version moves a few
samples by one grey level.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    ax = np.abs(x)
    inner = 1.5 * ax**3 - 2.5 * ax**2 + 1.0
    outer = -0.5 * ax**3 + 2.5 * ax**2 - 4.0 * ax + 2.0
    return np.where(ax <= 1, inner, np.where(ax <= 2, outer, 0.0))


@lru_cache(maxsize=64)
def resize_matrix(length: int, scale: Fraction) -> NDArray[np.float64]:
    """(ceil(length * scale), length) float64: one axis of the resize as a matrix.

    Rows sum to one. ``scale`` < 1 widens the kernel by ``1 / scale`` (antialiasing).
    """
    factor = float(scale)
    out_length = math.ceil(length * scale)
    shrink = min(factor, 1.0)
    width = 4.0 / shrink
    centre = (np.arange(1, out_length + 1)) / factor + 0.5 * (1.0 - 1.0 / factor)
    left = np.floor(centre - width / 2.0)
    taps = left[:, None] + np.arange(math.ceil(width) + 2)[None, :]
    weights = shrink * _cubic(shrink * (centre[:, None] - taps))
    weights /= weights.sum(axis=1, keepdims=True)
    mirror = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    columns = mirror[np.mod(taps - 1, 2 * length).astype(np.int64)]
    matrix = np.zeros((out_length, length))
    np.add.at(matrix, (np.arange(out_length)[:, None], columns), weights)
    return matrix


def resize(picture: Picture, scale: Fraction) -> Picture:
    """(H, W, C) uint8 -> (ceil(H*scale), ceil(W*scale), C) uint8."""
    if picture.ndim != 3 or picture.dtype != np.uint8:
        raise ValueError(f"need (H, W, C) uint8, got {picture.shape} {picture.dtype}")
    height, width, channels = picture.shape
    rows = resize_matrix(height, scale)
    columns = resize_matrix(width, scale)
    tall = rows @ picture.reshape(height, -1).astype(np.float64)
    tall = tall.reshape(-1, width, channels)
    out = np.einsum("ow,hwc->hoc", columns, tall, optimize=True)
    rounded: Picture = np.floor(np.clip(out, 0.0, 255.0) + 0.5).astype(np.uint8)
    return rounded


def crop_to_multiple(picture: Picture, multiple: int) -> Picture:
    """Cuts the right and bottom so that both sides divide by ``multiple``."""
    height, width = picture.shape[:2]
    return picture[: height - height % multiple, : width - width % multiple]


def downscale(picture: Picture, factor: int = 4) -> Picture:
    """(H, W, 3) uint8 with sides divisible by ``factor`` -> (H/factor, W/factor, 3) uint8."""
    height, width = picture.shape[:2]
    if height % factor or width % factor:
        raise ValueError(f"{width}x{height} does not divide by {factor}; crop it first")
    return resize(picture, Fraction(1, factor))


def upscale(picture: Picture, factor: int = 4) -> Picture:
    """(H, W, 3) uint8 -> (H*factor, W*factor, 3) uint8: the bicubic baseline."""
    return resize(picture, Fraction(factor))
