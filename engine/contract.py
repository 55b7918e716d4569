"""The single source of truth about frames and graphs: scale, names, layouts, types.

A frame is bytes to bytes: uint8 in, uint8 out. Everything else (normalising, clipping, rounding)
happens inside the graph. Network, exporter, backends, server and tests read these names; nothing
else spells them.
"""

from __future__ import annotations

from typing import Literal

SCALE = 4
"""Output pixels per input pixel, in each direction."""

OPSET = 17
"""ONNX operator set of every exported graph."""

SCHEMA = 1
"""Version of the metadata written into ONNX files, plans and proofs."""

FrameFormat = Literal["rgb24", "nv12"]
GraphFormat = Literal["rgb24", "nv12", "tensor"]
Precision = Literal["fp32", "fp16"]

RGB_INPUT = "frame"
"""``rgb24``: (H, W, 3) uint8, sRGB as stored."""
RGB_OUTPUT = "upscaled"
"""``rgb24``: (4H, 4W, 3) uint8."""

Y_INPUT, UV_INPUT = "y", "uv"
"""``nv12``: (H, W) and (ceil(H/2), ceil(W/2), 2) uint8."""
Y_OUTPUT, UV_OUTPUT = "y_upscaled", "uv_upscaled"
"""``nv12``: (4H, 4W) and (2H, 2W, 2) uint8."""

TENSOR_INPUT, TENSOR_OUTPUT = "input", "output"
"""``tensor``: (N, 3, H, W) float32 in [0, 1] -> (N, 3, 4H, 4W) float32, not clipped."""

ModelName = Literal["fast", "balanced", "quality", "fast-video"]
"""Weights that ship: the family, and ``fast`` trained on compressed video."""

MODELS: dict[str, int] = {"fast": 16, "balanced": 24, "quality": 32}
"""Model name -> width C of the family."""
