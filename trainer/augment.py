"""Augmentation of LR/HR batches: whole-pixel moves and channel orders, on the batch's device.

All of it maps LR and HR alike, so that downscaling the new HR would give the new LR.
"""

from __future__ import annotations

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


def _dihedral(x: Tensor, index: int) -> Tensor:
    x = torch.rot90(x, index % 4, (2, 3))
    return x.flip(3) if index >= 4 else x


def flips_and_rotations(batch: Batch, generator: torch.Generator) -> Batch:
    """One of the 8 flips and 90-degree rotations per sample, never an interpolated one.

    Samples are already in random order, so slices of the batch share a move: 8 moves a batch
    rather than one per sample keeps a GPU busy.
    """
    start = int(torch.randint(8, (1,), generator=generator))
    moved = []
    for x in batch:
        parts = [_dihedral(p, (start + i) % 8) for i, p in enumerate(x.tensor_split(8)) if len(p)]
        moved.append(torch.cat(parts))
    return moved[0], moved[1]


def permute_channels(batch: Batch, generator: torch.Generator) -> Batch:
    """A random order of R, G and B per sample."""
    count = len(batch[0])
    order = torch.rand(count, 3, generator=generator).argsort(dim=1).to(batch[0].device)
    rows = torch.arange(count, device=order.device)[:, None]
    return batch[0][rows, order], batch[1][rows, order]
