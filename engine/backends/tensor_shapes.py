"""The shapes of a graph's uint8 tensors for a frame of some size, by tensor name."""

from __future__ import annotations

from engine.contract import (
    RGB_INPUT,
    RGB_OUTPUT,
    SCALE,
    UV_INPUT,
    UV_OUTPUT,
    Y_INPUT,
    Y_OUTPUT,
    FrameFormat,
)
from engine.plan import Size

Shapes = dict[str, tuple[int, ...]]


def input_shapes(frame_format: FrameFormat, size: Size) -> Shapes:
    """Input tensor name -> shape, for a frame of ``size``."""
    height, width = size
    if frame_format == "nv12":
        return {
            Y_INPUT: (height, width),
            UV_INPUT: ((height + 1) // 2, (width + 1) // 2, 2),
        }
    return {RGB_INPUT: (height, width, 3)}


def output_shapes(frame_format: FrameFormat, size: Size) -> Shapes:
    """Output tensor name -> shape, for an input frame of ``size``."""
    height, width = size[0] * SCALE, size[1] * SCALE
    if frame_format == "nv12":
        return {Y_OUTPUT: (height, width), UV_OUTPUT: (height // 2, width // 2, 2)}
    return {RGB_OUTPUT: (height, width, 3)}
