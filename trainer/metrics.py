"""PSNR and SSIM as the field measures them: uint8-rounded, BT.601 luma, 4 pixels shaved off."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.contract import SCALE
from trainer.constants import constant

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


def gaussian_window(side: int = 11, sigma: float = 1.5) -> Tensor:
    """(side,) float64 weights that sum to one: MATLAB's ``fspecial('gaussian')`` on one axis."""
    x = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    weights = torch.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


def ssim(a: Tensor, b: Tensor, peak: float = 1.0) -> Tensor:
    """Map of the structural similarity (Wang et al. 2004), differentiable.

    Args:
        a, b: (N, C, H, W) float in 0..``peak``, at least 11 pixels on a side.
        peak: largest value.

    Returns:
        (N, C, H-10, W-10): only where the 11x11 window (sigma 1.5) fits, as the MATLAB code does.
    """
    channels = a.shape[1]
    window = constant(tuple(gaussian_window().tolist()), a)
    column = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, column, groups=channels), row, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    variance_a = blur(a * a) - mean_a**2
    variance_b = blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return similar / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))


def mean_ssim(a: Tensor, b: Tensor, shave: int = SHAVE) -> float:
    """Mean SSIM of two (N, C, H, W) tensors in 0..255."""
    if shave:
        a, b = a[..., shave:-shave, shave:-shave], b[..., shave:-shave, shave:-shave]
    return float(ssim(a.double(), b.double(), 255.0).mean())
