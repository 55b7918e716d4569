"""Random aligned crops of a set of pictures, any of them or rather the busy ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.contract import SCALE
from trainer.data import Pair

DULL_CROP_WEIGHT = 2.0
"""Grey levels added to a crop's busyness, so that a flat one is still taken at times."""


@dataclass(frozen=True, slots=True)
class Cropping:
    """How many crops are taken, of which size, and out of how many."""

    batch: int
    patch: int
    """Side of an LR crop in pixels."""
    candidates: int = 1
    """Crops drawn for each one that is taken."""


def draw(count: int, cropping: Cropping, generator: torch.Generator) -> Tensor:
    """(N, 4) float32: of each candidate its picture's index, place (y, x in [0, 1)) and luck.

    Args:
        count: pictures there are, at most 2 ** 24 (the integers that float32 holds).
    """
    drawn = cropping.batch * cropping.candidates
    which = torch.randint(count, (drawn, 1), generator=generator)
    return torch.cat([which.float(), torch.rand(drawn, 3, generator=generator)], dim=1)


def chosen(crops: Tensor, luck: Tensor, batch: int) -> Tensor:
    """(batch,) indices into ``crops`` (N, 3, H, W): a draw without replacement, busy ones likelier.

    The largest of ``luck ** (1 / weight)`` are a weighted sample (Efraimidis and Spirakis 2006),
    which needs no copy to the host.
    """
    keys = luck.clamp_min(1e-12).log() / (busyness(crops) + DULL_CROP_WEIGHT)
    return keys.topk(batch).indices


def sample_batch(
    pairs: list[Pair],
    cropping: Cropping,
    generator: torch.Generator,
    lr_of: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Random aligned crops: LR (B, 3, P, P) and HR (B, 3, 4P, 4P), uint8, on the pairs' device.

    ``lr_of`` gives the LR picture of a pair by its index, for degraded copies.
    """
    patch, draws = cropping.patch, draw(len(pairs), cropping, generator)
    lrs, corners = [], []
    for index, (fy, fx) in zip(draws[:, 0].int().tolist(), draws[:, 1:3].tolist(), strict=True):
        height, width = pairs[index].lr.shape[1:]
        y, x = int(fy * (height - patch + 1)), int(fx * (width - patch + 1))
        lr = pairs[index].lr if lr_of is None else lr_of(index)
        lrs.append(lr[:, y : y + patch, x : x + patch])
        corners.append((index, y * SCALE, x * SCALE))
    lr = torch.stack(lrs)
    if cropping.candidates > 1:
        taken = chosen(lr, draws[:, 3].to(lr.device), cropping.batch)
        lr = lr[taken]
        corners = [corners[number] for number in taken.tolist()]
    side = patch * SCALE
    return lr, torch.stack([pairs[i].hr[:, y : y + side, x : x + side] for i, y, x in corners])


def busyness(crops: Tensor) -> Tensor:
    """(N,): mean absolute step between neighbouring pixels of (N, 3, H, W), in grey levels."""
    grey = crops.float().mean(1)
    return grey.diff(dim=1).abs().mean((1, 2)) + grey.diff(dim=2).abs().mean((1, 2))
