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


def sample_batch(
    pairs: list[Pair],
    cropping: Cropping,
    generator: torch.Generator,
    lr_of: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Random aligned crops: LR (B, 3, P, P) and HR (B, 3, 4P, 4P), uint8, on the pairs' device.

    ``lr_of`` gives the LR picture of a pair by its index, for degraded copies.
    """
    patch, drawn = cropping.patch, cropping.batch * cropping.candidates
    which = torch.randint(len(pairs), (drawn,), generator=generator).tolist()
    fractions = torch.rand(drawn, 2, generator=generator).tolist()
    lrs, corners = [], []
    for index, (fy, fx) in zip(which, fractions, strict=True):
        height, width = pairs[index].lr.shape[1:]
        y, x = int(fy * (height - patch + 1)), int(fx * (width - patch + 1))
        lr = pairs[index].lr if lr_of is None else lr_of(index)
        lrs.append(lr[:, y : y + patch, x : x + patch])
        corners.append((y * SCALE, x * SCALE))
    lr = torch.stack(lrs)
    taken = list(range(drawn))
    if cropping.candidates > 1:
        weights = busyness(lr).cpu() + DULL_CROP_WEIGHT
        taken = torch.multinomial(weights, cropping.batch, generator=generator).tolist()
    side = patch * SCALE
    hrs = []
    for number in taken:
        (y, x), pair = corners[number], pairs[which[number]]
        hrs.append(pair.hr[:, y : y + side, x : x + side])
    return lr[taken], torch.stack(hrs)


def busyness(crops: Tensor) -> Tensor:
    """(N,): mean absolute step between neighbouring pixels of (N, 3, H, W), in grey levels."""
    grey = crops.float().mean(1)
    return grey.diff(dim=1).abs().mean((1, 2)) + grey.diff(dim=2).abs().mean((1, 2))
