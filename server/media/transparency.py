"""Colours under full transparency, which nobody sees but every filter reads.

Editors leave them black or white; enlarged as they are, they bleed into the visible edge as a dark
or light fringe.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.frames import Bytes

Plane = NDArray[np.float32]


def fill_hidden(colour: Bytes, alpha: Bytes) -> Bytes:
    """``colour`` with pixels of alpha 0 continued from the visible ones around them.

    Args:
        colour: (H, W) or (H, W, 3) uint8.
        alpha: (H, W) uint8.

    Returns:
        The same array when nothing is hidden or nothing is visible, else a new one in which
        visible pixels are unchanged.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return colour
    samples: Plane = colour.reshape(*alpha.shape, -1).astype(np.float32)
    weights: Plane = visible[..., np.newaxis].astype(np.float32)
    filled = _pull_push(samples, weights)
    result = colour.copy().reshape(samples.shape)
    result[~visible] = np.clip(np.rint(filled[~visible]), 0, 255)
    return result.reshape(colour.shape)


def _pull_push(samples: Plane, weights: Plane) -> Plane:
    """Means of known samples over ever larger squares, used where nothing smaller is known."""
    height, width = weights.shape[:2]
    known = weights > 0
    if known.all() or (height == 1 and width == 1):
        return samples
    ones: Plane = known.astype(np.float32)
    coarse_weights = _sum_2x2(ones)
    means = _sum_2x2(samples * ones) / np.maximum(coarse_weights, 1)
    coarse: Plane = means.astype(np.float32, copy=False)
    filled = _pull_push(coarse, coarse_weights)
    wide = filled.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    mixed: Plane = np.where(known, samples, wide)
    return mixed


def _sum_2x2(plane: Plane) -> Plane:
    height, width = plane.shape[:2]
    even = np.pad(plane, [(0, height % 2), (0, width % 2), (0, 0)])
    columns: Plane = even[:, ::2] + even[:, 1::2]
    return columns[::2] + columns[1::2]
