"""Area averaging of finished pictures, for people who want another size than exactly x4.

An x4 result holds more detail than the size that was asked for; the mean over each target
pixel's footprint keeps it without ringing or aliasing.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from engine.frames import Bytes


def area_resize(picture: Bytes, height: int, width: int) -> Bytes:
    """The picture at another size by the mean over each pixel's footprint.

    Rounded once for whole factors and once per direction for others: always within one grey
    level of the exact mean.

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
    if picture.ndim == 2:
        return _resize_plane(picture, height, width)
    if picture.shape[2] == 3:
        return _resize_plane(picture, height, width)
    planes = [
        _resize_plane(picture[:, :, channel], height, width) for channel in range(picture.shape[2])
    ]
    return np.stack(planes, axis=2)


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


def _resize_plane(plane: Bytes, height: int, width: int) -> Bytes:
    """One plane, or three interleaved ones."""
    image = Image.fromarray(np.ascontiguousarray(plane))
    if plane.shape[0] % height == 0 and plane.shape[1] % width == 0:
        return np.array(image.reduce((plane.shape[1] // width, plane.shape[0] // height)))
    return np.array(image.resize((width, height), Image.Resampling.BOX))
