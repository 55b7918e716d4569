"""Bicubic x4: the yardstick of every super-resolution figure.

Keys' cubic (a = -0.5), symmetric border, rounded half up once at the end: MATLAB's ``imresize``
in double precision, up to a sample in a few thousand where float32 rounds the other way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.contract import SCALE
from engine.frames import Bytes

_REACH = 2
"""Input samples on each side that an output sample depends on."""
_STRIP_ROWS = 128
"""Input rows at a time, so that the float32 planes stay small."""


def bicubic_x4(plane: Bytes) -> Bytes:
    """(H, W) or (H, W, C) uint8 -> (4H, 4W) or (4H, 4W, C) uint8, a new array."""
    height, width = plane.shape[:2]
    result = np.empty((height * SCALE, width * SCALE, *plane.shape[2:]), np.uint8)
    margins = [(_REACH, _REACH), (_REACH, _REACH), *[(0, 0)] * (plane.ndim - 2)]
    padded = np.pad(plane, margins, mode="symmetric")
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, height)
        strip = padded[top : bottom + 2 * _REACH].astype(np.float32)
        enlarged = _enlarge_rows(_enlarge_rows(strip).swapaxes(0, 1)).swapaxes(0, 1)
        np.clip(np.floor(enlarged + 0.5), 0, 255, out=enlarged)
        result[top * SCALE : bottom * SCALE] = enlarged
    return result


def _enlarge_rows(padded: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H + 4, ...) -> (4H, ...): each of the four phases has four fixed taps."""
    count = padded.shape[0] - 2 * _REACH
    result = np.zeros((count, SCALE, *padded.shape[1:]), np.float32)
    for phase in range(SCALE):
        position = (phase + 0.5) / SCALE - 0.5
        for tap in range(-_REACH, _REACH + 1):
            weight = _keys(abs(position - tap))
            if weight:
                result[:, phase] += np.float32(weight) * padded[_REACH + tap :][:count]
    return result.reshape(count * SCALE, *padded.shape[1:])


def _keys(distance: float) -> float:
    if distance <= 1:
        return (1.5 * distance - 2.5) * distance**2 + 1
    if distance < 2:
        return ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return 0.0
