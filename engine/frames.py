"""A frame on the host: what goes into a lane and what comes out of it.

``Rgb24`` is an array; ``Nv12`` is two planes. Both are plain uint8, C-contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.contract import SCALE, FrameFormat
from engine.errors import ContractError

Bytes: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Nv12:
    """A 4:2:0 frame: ``y`` (H, W) and interleaved ``uv`` (ceil(H/2), ceil(W/2), 2), uint8."""

    y: Bytes
    uv: Bytes

    def __post_init__(self) -> None:
        height, width = self.y.shape
        if not self.y.size:
            raise ContractError(f"a frame needs at least one pixel, got {width}x{height}")
        expected = ((height + 1) // 2, (width + 1) // 2, 2)
        if self.uv.shape != expected or self.y.dtype != np.uint8 or self.uv.dtype != np.uint8:
            raise ContractError(
                f"an nv12 frame of {width}x{height} needs uint8 uv of shape {expected}, "
                f"got {self.uv.shape} {self.uv.dtype}"
            )


Frame: TypeAlias = Bytes | Nv12
"""``rgb24``: (H, W, 3) uint8 array. ``nv12``: :class:`Nv12`."""


def frame_format(frame: Frame) -> FrameFormat:
    """The format of ``frame``. Raises ContractError for an array that is not (H, W, 3) uint8."""
    if isinstance(frame, Nv12):
        return "nv12"
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ContractError(f"an rgb24 frame is (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    if not frame.size:
        raise ContractError(f"a frame needs at least one pixel, got {frame.shape}")
    return "rgb24"


def frame_size(frame: Frame) -> tuple[int, int]:
    """(height, width) in pixels."""
    height, width = (frame.y if isinstance(frame, Nv12) else frame).shape[:2]
    return int(height), int(width)


def output_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the frame that an input of this size becomes."""
    return height * SCALE, width * SCALE


def check_frame(frame: Frame, expected: FrameFormat, height: int, width: int) -> None:
    """Raises ContractError unless ``frame`` has this format and size (in pixels)."""
    found, size = frame_format(frame), frame_size(frame)
    if found != expected or size != (height, width):
        raise ContractError(
            f"the lane takes {expected} frames of {width}x{height}, "
            f"got {found} of {size[1]}x{size[0]}"
        )


def empty_frame(height: int, width: int, form: FrameFormat) -> Frame:
    """A frame of this size and format, not filled in."""
    if form == "rgb24":
        return np.empty((height, width, 3), np.uint8)
    chroma = ((height + 1) // 2, (width + 1) // 2, 2)
    return Nv12(np.empty((height, width), np.uint8), np.empty(chroma, np.uint8))


def copy_frame(frame: Frame) -> Frame:
    """A contiguous copy that the caller owns."""
    if isinstance(frame, Nv12):
        return Nv12(frame.y.copy(), frame.uv.copy())
    return frame.copy()
