"""The guard: a result that does not look like its input is refused before anyone sees it.

The 4x4 box mean of an honest result is close to its input, closer where the picture is flat. Zeros,
another frame or shuffled tiles are not. The measure is the mean difference over the mean detail, in
up to 8x8 blocks, so that a fault in one corner counts. Only some rows of every frame are looked at
(others each time): the check costs a few milliseconds even at 4096x4096.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.contract import SCALE
from engine.errors import EngineFault
from engine.frames import Bytes, Frame, Nv12, frame_format, frame_size, output_size

MAX_DEVIATION = 0.25
"""Mean difference over mean detail in the worst block. Measured (docs/experiments.md, Guard):
natural pictures reach 0.09, hostile ones 0.15; the mildest fault looked for gives 0.44."""

FLAT_DETAIL = 16.0
"""Grey levels added to the detail, so that a flat block may be 4 levels off."""

SAMPLED_ROWS = 32
"""Input rows looked at in one frame."""

BLOCKS = 8
"""Blocks per direction, each of at least this many looked-at rows and columns."""


def deviation(frame: Frame, result: Frame, turn: int = 0) -> float:
    """How far ``result`` is from what ``frame`` should become; 0 is repetition of its pixels.

    Args:
        frame: (H, W) in; of nv12 only Y is looked at.
        result: (4H, 4W) out.
        turn: any counter; each value looks at other rows.
    """
    pixels, made = _plane(frame), _plane(result)
    step = max(1, pixels.shape[0] // SAMPLED_ROWS)
    rows = np.arange(turn % step, pixels.shape[0], step)
    difference = np.abs(box_mean(made, rows) - pixels[rows])
    worst: np.float64 = np.max(_blocks(difference) / (FLAT_DETAIL + _blocks(_detail(pixels, rows))))
    return float(worst)


def check_result(frame: Frame, result: Frame, turn: int = 0) -> None:
    """Raises EngineFault when ``result`` cannot have been made from ``frame``.

    A frame with a side below BLOCKS pixels is let through: all of it is border, where the zero
    padding of an honest network shows.
    """
    height, width = frame_size(frame)
    wanted = (frame_format(frame), *output_size(height, width))
    made = (frame_format(result), *frame_size(result))
    if made != wanted:
        raise EngineFault(
            f"the result of a {width}x{height} frame has the wrong shape ({made[2]}x{made[1]} "
            f"{made[0]}, not {wanted[2]}x{wanted[1]} {wanted[0]}): the lane was dropped"
        )
    if min(height, width) >= BLOCKS:
        _refuse_odd(deviation(frame, result, turn), (height, width))


def check_band(pixels: Bytes, made: Bytes) -> None:
    """Like :func:`check_result`, for rows (R, W) of a plane and what became of them, (4R, 4W)."""
    if min(pixels.shape) >= BLOCKS:
        _refuse_odd(deviation(pixels, made), pixels.shape)


def _refuse_odd(found: float, size: tuple[int, ...]) -> None:
    if found > MAX_DEVIATION:
        raise EngineFault(
            f"the result of a {size[1]}x{size[0]} frame does not resemble it (deviation "
            f"{found:.2f}, limit {MAX_DEVIATION}): the lane was dropped, check the device and "
            "the plan"
        )


def box_mean(made: Bytes, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """4x4 box means of the output rows that belong to these input rows: (rows, W[, 3])."""
    height, width = made.shape[0] // SCALE, made.shape[1] // SCALE
    lines = made.reshape(height, SCALE, *made.shape[1:])[rows].sum(axis=1, dtype=np.uint16)
    cells = lines.reshape(len(rows), width, SCALE, *made.shape[2:])
    total = cells[:, :, 0] + cells[:, :, 1] + cells[:, :, 2] + cells[:, :, 3]
    means: NDArray[np.float32] = total / np.float32(SCALE * SCALE)
    return means


def _detail(pixels: Bytes, rows: NDArray[np.intp]) -> NDArray[np.int16]:
    """The largest difference of every looked-at sample from its four neighbours."""
    centre = pixels[rows].astype(np.int16)
    above = pixels[np.maximum(rows - 1, 0)]
    below = pixels[np.minimum(rows + 1, pixels.shape[0] - 1)]
    largest: NDArray[np.int16] = np.maximum(np.abs(centre - above), np.abs(centre - below))
    sideways = np.abs(np.diff(centre, axis=1))
    largest[:, 1:] = np.maximum(largest[:, 1:], sideways)
    largest[:, :-1] = np.maximum(largest[:, :-1], sideways)
    return largest


def _blocks(values: NDArray[np.float32] | NDArray[np.int16]) -> NDArray[np.float64]:
    """Means over the blocks of (rows, W[, 3])."""
    sums: NDArray[np.float64] = values.reshape(*values.shape[:2], -1).sum(axis=2, dtype=np.float64)
    for axis in (0, 1):
        length = values.shape[axis]
        edges = np.linspace(0, length, max(1, min(BLOCKS, length // BLOCKS)) + 1).astype(np.intp)
        sums = np.add.reduceat(sums, edges[:-1], axis=axis)
        shape = [-1 if other == axis else 1 for other in (0, 1)]
        sums = sums / np.diff(edges).reshape(shape)
    return sums / (values.shape[2] if values.ndim == 3 else 1)


def _plane(frame: Frame) -> Bytes:
    return frame.y if isinstance(frame, Nv12) else frame
