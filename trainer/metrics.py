"""PSNR as the field measures it: uint8-rounded, BT.601 luma of RGB, 4 pixels shaved off."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.contract import SCALE

SHAVE = SCALE


def luma(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) in 0..255 -> (N, 1, H, W): BT.601 Y in 16..235, not rounded."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=rgb.dtype, device=rgb.device)
    return 16.0 + (rgb * weights.view(1, 3, 1, 1)).sum(1, keepdim=True) / 255.0


def to_uint8(x: Tensor) -> Tensor:
    """Float in [0, 1] -> uint8, clipped and rounded."""
    return (x * 255.0).clamp(0, 255).round().to(torch.uint8)


def psnr(a: Tensor, b: Tensor, shave: int = SHAVE) -> float:
    """Peak signal-to-noise ratio in dB of two equal-shaped tensors in 0..255."""
    if shave:
        a, b = a[..., shave:-shave, shave:-shave], b[..., shave:-shave, shave:-shave]
    mse = float((a.double() - b.double()).square().mean())
    return math.inf if mse == 0 else 10.0 * math.log10(255.0**2 / mse)


def psnr_y(a: Tensor, b: Tensor) -> float:
    """PSNR of the luma of two (N, 3, H, W) uint8 pictures, in dB."""
    return psnr(luma(a.double()), luma(b.double()))
