"""What a network learnt, as numbers: its two paths, their frequencies, edges and their direction.

Follows the analysis of the source method: the shortcut path is linear from end to end, so it can
only interpolate; what the non-linear body adds should be the high frequencies, and be largest
where gradients vary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.contract import SCALE
from engine.network import Network
from trainer.bicubic import Picture, downscale
from trainer.evaluate import Enlarge
from trainer.losses import GV_PATCH, sobel_maps

LR_NYQUIST = 0.5 / SCALE
"""In cycles per HR pixel: what an LR picture can hold lies below."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Output of the two paths of a network, (1, 3, 4H, 4W) each; they add up to its output."""

    shortcut: Tensor
    body: Tensor


@torch.no_grad()
def split_paths(network: Network, x: Tensor) -> Paths:
    """The shortcut path alone (with the biases of the last two layers) and the body alone.

    Args:
        x: (1, 3, H, W) float in [0, 1].
    """
    shortcut = network.conv_in(x)
    body = network.run_body(shortcut)
    nothing = network.tail(torch.zeros_like(body))
    alone = network.tail(body) - nothing
    return Paths(F.pixel_shuffle(network.tail(shortcut), SCALE), F.pixel_shuffle(alone, SCALE))


def high_frequency_share(picture: Tensor, cutoff: float = LR_NYQUIST) -> float:
    """Share of the energy, the mean aside, at frequencies above ``cutoff`` cycles per pixel.

    Args:
        picture: (N, C, H, W) float.
    """
    height, width = picture.shape[-2:]
    centred = (picture - picture.mean((-2, -1), keepdim=True)).double()
    # A window: the jump from one border to the other is not in the picture.
    window = torch.outer(_hann(height), _hann(width))
    energy = torch.fft.fft2(centred * window).abs().square()
    radius = torch.hypot(
        torch.fft.fftfreq(height, dtype=torch.float64)[:, None],
        torch.fft.fftfreq(width, dtype=torch.float64)[None],
    )
    total = float(energy.sum())
    return float(energy[..., radius > cutoff].sum()) / total if total else 0.0


def _hann(length: int) -> Tensor:
    return torch.hann_window(length, periodic=False, dtype=torch.float64)


def gradient_variance_map(rgb: Tensor) -> Tensor:
    """(1, 3, H, W) in [0, 1] -> (h, w): variance of the Sobel maps in each 16x16 patch, summed."""
    maps = sobel_maps(rgb)
    variance = F.avg_pool2d(maps.square(), GV_PATCH) - F.avg_pool2d(maps, GV_PATCH).square()
    return variance.sum(1)[0]


def gradient_magnitude(rgb: Tensor) -> Tensor:
    """(1, 3, H, W) in [0, 1] -> (H-2, W-2): length of the Sobel gradient of the grey picture."""
    return sobel_maps(rgb).square().sum(1).sqrt()[0]


def patch_energy(picture: Tensor) -> Tensor:
    """(1, C, H, W) -> (h, w): mean square of each 16x16 patch, aligned with the map above.

    The mean of each channel over the picture is taken off first.
    """
    inner = (picture - picture.mean((2, 3), keepdim=True))[..., 1:-1, 1:-1]
    return F.avg_pool2d(inner.square().mean(1, keepdim=True), GV_PATCH)[0, 0]


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, of two equal-shaped tensors; 0 when one of them is constant."""
    x, y = (v.flatten().double() - v.double().mean() for v in (a, b))
    length = float(x.norm() * y.norm())
    return float(x @ y) / length if length else 0.0


def edge_angles(rgb: Tensor, patch: int = GV_PATCH) -> tuple[Tensor, Tensor]:
    """Direction of the edges of each patch by the structure tensor.

    Args:
        rgb: (1, 3, H, W) float.

    Returns:
        (h, w) angle of the gradient in degrees from 0 to 180, and (h, w) how much one direction
        prevails times the gradient energy (weight 0: no direction at all).
    """
    gx, gy = sobel_maps(rgb)[0].double()
    xx, yy, xy = (F.avg_pool2d(v[None, None], patch)[0, 0] for v in (gx * gx, gy * gy, gx * gy))
    angle = torch.rad2deg(0.5 * torch.atan2(2 * xy, xx - yy)) % 180
    return angle, torch.hypot(xx - yy, 2 * xy)


def turned(a: Tensor, b: Tensor) -> Tensor:
    """Smallest difference in degrees (0..90) of directions that repeat after 180 degrees."""
    difference = (a - b).abs() % 180
    return torch.minimum(difference, 180 - difference)


def edge_turn(output: Tensor, hr: Tensor) -> float:
    """Mean turn in degrees of the edges of ``hr`` in ``output``, (3, H, W) uint8 each.

    Weighted by how strong and how clearly directed the edge is in ``hr``.
    """
    angle, weight = edge_angles(hr[None].float() / 255)
    other, _ = edge_angles(output[None].float() / 255)
    total = float(weight.sum())
    return float((turned(angle, other) * weight).sum()) / total if total else 0.0


def grating(angle_degrees: float, period: float, side: int = 192) -> Picture:
    """(side, side, 3) uint8: a sine whose gradient points along ``angle_degrees``."""
    y, x = np.mgrid[:side, :side]
    angle = np.deg2rad(angle_degrees)
    phase = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period
    wave = np.round(127.5 + 100 * np.sin(phase)).astype(np.uint8)
    return np.repeat(wave[..., None], 3, 2)


def grating_turns(enlarge: Enlarge, period: float, angles: list[float]) -> list[float]:
    """How far gratings turn when they are reduced and enlarged again, in degrees."""
    turns = []
    for angle in angles:
        hr = grating(angle, period)
        output = enlarge(to_tensor(downscale(hr)))
        turns.append(edge_turn(output[:, 16:-16, 16:-16], to_tensor(hr)[:, 16:-16, 16:-16]))
    return turns


def to_tensor(picture: Picture) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
