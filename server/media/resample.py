"""Area averaging of finished pictures, for people who want another size than exactly x4.

An x4 result holds more detail than the size that was asked for; the mean over each target
pixel's footprint keeps it without ringing or aliasing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.frames import Bytes


def area_resize(picture: Bytes, height: int, width: int) -> Bytes:
    """The picture at another size by the mean over each pixel's footprint.

    Within one grey level of the exact mean. (Pillow's BOX filter is not: it counts each source
    pixel wholly or not at all, which is off by up to 9 levels at 3 -> 2.)

    Args:
        picture: (H, W) or (H, W, C) uint8.
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.

    Returns:
        (height, width) or (height, width, C) uint8, a new array; channels are independent.

    Raises:
        ValueError: the size is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a picture cannot be {width}x{height}")
    rows, columns = picture.shape[:2]
    if rows % height == 0 and columns % width == 0:
        return _reduce(picture, columns // width, rows // height)
    averaged = _average(_average(picture.astype(np.float32), height, 0), width, 1)
    return np.rint(averaged).astype(np.uint8)


def target_size(
    height: int, width: int, *, wanted_height: int | None, wanted_size: tuple[int, int] | None
) -> tuple[int, int]:
    """(height, width) of the result for an x4 picture of ``height`` x ``width`` pixels.

    ``wanted_height`` keeps the aspect ratio; ``wanted_size`` is (width, height) and wins.

    Raises:
        ValueError: more than x4 is asked for, or nothing would be left.
    """
    if wanted_size is not None:
        goal_width, goal_height = wanted_size
    elif wanted_height is not None:
        goal_height = wanted_height
        goal_width = max(round(width * wanted_height / height), 1)
    else:
        return height, width
    if goal_height < 1 or goal_width < 1:
        raise ValueError(f"the size {goal_width}x{goal_height} must be positive")
    if goal_height > height or goal_width > width:
        raise ValueError(
            f"the size {goal_width}x{goal_height} is more than x4 of this input; "
            f"at most {width}x{height} is possible"
        )
    return goal_height, goal_width


def _reduce(picture: Bytes, across: int, down: int) -> Bytes:
    """Whole factors, by Pillow's fast loop; any number of channels."""
    if picture.ndim == 2 or picture.shape[2] == 3:
        image = Image.fromarray(np.ascontiguousarray(picture))
        return np.array(image.reduce((across, down)))
    planes = [_reduce(picture[:, :, channel], across, down) for channel in range(picture.shape[2])]
    return np.stack(planes, axis=2)


def _average(picture: NDArray[np.float32], goal: int, axis: int) -> NDArray[np.float32]:
    """The mean along one axis; a pixel that lies across an edge counts on both sides of it."""
    size = picture.shape[axis]
    if size == goal:
        return picture
    edges = np.arange(goal + 1) * (size / goal)
    low, high = edges[:-1], edges[1:]
    first = np.floor(low).astype(np.intp)
    shape = [1] * picture.ndim
    shape[axis] = goal
    total = np.zeros([*picture.shape[:axis], goal, *picture.shape[axis + 1 :]], np.float32)
    for step in range(int(np.ceil(size / goal)) + 1):
        covered = np.minimum(high, first + step + 1) - np.maximum(low, first + step)
        weight = (np.clip(covered, 0, None) * (goal / size)).astype(np.float32).reshape(shape)
        total += picture.take(np.minimum(first + step, size - 1), axis) * weight
    return total
