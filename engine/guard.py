"""The guard: a result that does not look like its input is refused before anyone sees it.

Downscaled by a 4x4 box mean, an honest result is close to its input. Zeros, a stale frame or
shuffled tiles are not. Only some rows of every frame are looked at (others each time), so that
the check costs a few milliseconds even at 4096x4096.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.contract import SCALE
from engine.errors import EngineFault
from engine.frames import Bytes, Frame, Nv12, frame_size

MAX_DIFFERENCE = 24.0
"""Grey levels between a pixel and the mean of the 16 made from it that are still normal."""

MAX_FAR_OFF = 0.25
"""Fraction of looked-at samples that may differ by more."""

SAMPLED_ROWS = 64
"""Input rows looked at in one frame."""


def far_off_fraction(frame: Frame, result: Frame, turn: int = 0) -> float:
    """Fraction of looked-at samples (Y of nv12, R, G and B of rgb24) that are far off.

    Args:
        frame: (H, W) in.
        result: (4H, 4W) out.
        turn: any counter; each value looks at other rows.
    """
    pixels, made = _luma(frame), _luma(result)
    step = max(1, pixels.shape[0] // SAMPLED_ROWS)
    rows = np.arange(turn % step, pixels.shape[0], step)
    difference = np.abs(box_mean(made, rows) - pixels[rows])
    return float(np.count_nonzero(difference > MAX_DIFFERENCE) / max(1, difference.size))


def box_mean(made: Bytes, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """4x4 box means of the output rows that belong to these input rows: (rows, W[, 3])."""
    height, width = made.shape[0] // SCALE, made.shape[1] // SCALE
    blocks = made.reshape(height, SCALE, made.shape[1], -1)[rows]
    lines = blocks.sum(axis=1, dtype=np.uint16).reshape(len(rows), width, SCALE, -1)
    total = lines[:, :, 0] + lines[:, :, 1] + lines[:, :, 2] + lines[:, :, 3]
    means: NDArray[np.float32] = total / np.float32(SCALE * SCALE)
    return means.reshape(len(rows), width, *made.shape[2:])


def check_result(frame: Frame, result: Frame, turn: int = 0) -> None:
    """Raises EngineFault when ``result`` cannot have been made from ``frame``."""
    fraction = far_off_fraction(frame, result, turn)
    if fraction > MAX_FAR_OFF:
        height, width = frame_size(frame)
        raise EngineFault(
            f"the result of a {width}x{height} frame does not resemble it ({fraction:.0%} of the "
            "samples are far off): the lane was dropped, check the device and the plan"
        )


def _luma(frame: Frame) -> Bytes:
    return frame.y if isinstance(frame, Nv12) else frame
