"""Losses of float RGB batches in [0, 1], combinable as a sum: ``l1+0.01*gv``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.constants import constant
from trainer.errors import TrainerError
from trainer.metrics import ssim

Loss = Callable[[Tensor, Tensor], Tensor]
GV_PATCH = 16


def charbonnier(output: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Smooth L1 of Lai et al. (2017): mean of sqrt(d^2 + eps^2)."""
    return torch.sqrt((output - target).square() + epsilon**2).mean()


def sobel_maps(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 2, H-2, W-2): horizontal and vertical Sobel of the grey picture."""
    weights = constant((0.299, 0.587, 0.114), rgb)
    grey = (rgb * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
    row, slope = constant((1.0, 2.0, 1.0), rgb), constant((-1.0, 0.0, 1.0), rgb)
    kernel = torch.stack([torch.outer(row, slope), torch.outer(slope, row)])
    return F.conv2d(grey, kernel[:, None])


def sobel_edges(output: Tensor, target: Tensor) -> Tensor:
    """L1 between the Sobel maps of the grey pictures."""
    return F.l1_loss(sobel_maps(output), sobel_maps(target))


def smooth_l1(output: Tensor, target: Tensor) -> Tensor:
    """Huber's loss with its corner at 0.01, about 2.5 grey levels (at 1 it would be plain MSE)."""
    return F.smooth_l1_loss(output, target, beta=0.01)


def structural_dissimilarity(output: Tensor, target: Tensor) -> Tensor:
    """1 - mean SSIM of the RGB channels (Wang et al. 2004)."""
    return 1.0 - ssim(output, target).mean()


def gradient_variance(output: Tensor, target: Tensor) -> Tensor:
    """MSE of the per-patch variances of the Sobel maps (Abrahamyan et al. 2022), patch 16."""

    def variances(rgb: Tensor) -> Tensor:
        maps = sobel_maps(rgb)
        mean = F.avg_pool2d(maps, GV_PATCH)
        square = F.avg_pool2d(maps.square(), GV_PATCH)
        samples = GV_PATCH * GV_PATCH
        return (square - mean.square()) * (samples / (samples - 1))

    return F.mse_loss(variances(output), variances(target))


TERMS: dict[str, Loss] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "charbonnier": charbonnier,
    "gv": gradient_variance,
    "ssim": structural_dissimilarity,
    "smooth-l1": smooth_l1,
    "sobel": sobel_edges,
}


def parse_loss(spec: str) -> Loss:
    """``"l1+0.01*gv"`` -> a function of (output, target).

    Raises:
        TrainerError: an unknown term or weight, naming the terms there are.
    """
    parts: list[tuple[float, Loss]] = []
    for term in spec.replace(" ", "").split("+"):
        weight, _, name = term.rpartition("*")
        try:
            parts.append((float(weight or 1), TERMS[name]))
        except (KeyError, ValueError):
            raise TrainerError(
                f"loss term {term!r} is not WEIGHT*NAME with NAME one of {', '.join(TERMS)}"
            ) from None

    def total(output: Tensor, target: Tensor) -> Tensor:
        terms = [w * f(output, target) for w, f in parts]
        return torch.stack(terms).sum()

    return total
