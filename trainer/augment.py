"""Augmentation of LR/HR batches on their device: whole-pixel moves, channel orders and mixtures.

All of it treats LR and HR alike, so that downscaling the new HR would give the new LR (but for
the border of a pasted box; and CutBlur, which means to differ). Boxes lie on LR pixels. After
Yoo et al. 2020 ("Rethinking Data Augmentation for Image Super-resolution").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.contract import SCALE
from trainer.config import AugmentConfig

Batch = tuple[Tensor, Tensor]
Augment = Callable[[Batch, torch.Generator], Batch]


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


def random_boxes(lr: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 1, H, W) bool: one box per sample, each side a quarter to three quarters of the crop."""
    count, _, height, width = lr.shape
    masks = torch.zeros(count, 1, height, width, dtype=torch.bool)
    draws = torch.rand(count, 4, generator=generator).tolist()
    for index, (a, b, c, d) in enumerate(draws):
        tall = max(1, round(height * (0.25 + 0.5 * a)))
        broad = max(1, round(width * (0.25 + 0.5 * b)))
        y, x = int(c * (height - tall + 1)), int(d * (width - broad + 1))
        masks[index, :, y : y + tall, x : x + broad] = True
    return masks.to(lr.device)


def enlarge(mask: Tensor) -> Tensor:
    """The HR form of an LR mask: every pixel 4x4 times."""
    return mask.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)


def _paste(batch: Batch, other: Batch, mask: Tensor) -> Batch:
    return torch.where(mask, other[0], batch[0]), torch.where(enlarge(mask), other[1], batch[1])


def _partner(batch: Batch) -> Batch:
    return batch[0].roll(1, 0), batch[1].roll(1, 0)


def _mix(batch: Batch, other: Batch, share: Tensor) -> Batch:
    """``share`` (N, 1, 1, 1) of the batch, the rest of ``other``; uint8 stays uint8, rounded."""
    share = share.to(batch[0].device)
    mixed = [a.float() * share + b.float() * (1 - share) for a, b in zip(batch, other, strict=True)]
    if batch[0].dtype == torch.uint8:
        mixed = [x.round().to(torch.uint8) for x in mixed]
    return mixed[0], mixed[1]


def _shares(count: int, low: float, generator: torch.Generator) -> Tensor:
    return low + (1 - low) * torch.rand(count, 1, 1, 1, generator=generator)


def cutblur(batch: Batch, generator: torch.Generator) -> Batch:
    """In a box, LR shows every fourth HR pixel: as sharp as LR can be.

    The source method pastes HR into an LR picture of HR size; our network reads LR as small as it
    is, and point-sampling is what fits there. It learns where not to sharpen.
    """
    lr, hr = batch
    sharp = hr[:, :, SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
    return torch.where(random_boxes(lr, generator), sharp, lr), hr


def cutout(batch: Batch, generator: torch.Generator) -> Batch:
    """A black box in both."""
    black = torch.zeros_like(batch[0]), torch.zeros_like(batch[1])
    return _paste(batch, black, random_boxes(batch[0], generator))


def cutmix(batch: Batch, generator: torch.Generator) -> Batch:
    """A box of the neighbour in the batch."""
    return _paste(batch, _partner(batch), random_boxes(batch[0], generator))


def mixup(batch: Batch, generator: torch.Generator) -> Batch:
    """At least half of the sample and the rest of its neighbour."""
    return _mix(batch, _partner(batch), _shares(len(batch[0]), 0.5, generator))


def cutmixup(batch: Batch, generator: torch.Generator) -> Batch:
    """Mixup inside a box only."""
    boxes = random_boxes(batch[0], generator)
    return _paste(batch, mixup(batch, generator), boxes)


def blend(batch: Batch, generator: torch.Generator) -> Batch:
    """At least 60 % of the sample and the rest one random colour."""
    count, top = len(batch[0]), 255.0 if batch[0].dtype == torch.uint8 else 1.0
    colour = (torch.rand(count, 3, 1, 1, generator=generator) * top).to(batch[0].device)
    flat = colour.expand_as(batch[0]), colour.expand_as(batch[1])
    return _mix(batch, flat, _shares(count, 0.6, generator))


AUGMENTATIONS: dict[str, Augment] = {
    "dihedral": flips_and_rotations,
    "rgb": permute_channels,
    "cutblur": cutblur,
    "cutout": cutout,
    "cutmix": cutmix,
    "mixup": mixup,
    "cutmixup": cutmixup,
    "blend": blend,
}
"""By the names of the fields of AugmentConfig, in the order in which they are applied."""


def augment(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Batch:
    """Applies each augmentation to the share of the samples that ``config`` says."""
    for name, move in AUGMENTATIONS.items():
        probability: float = getattr(config, name)
        if probability == 1.0:
            batch = move(batch, generator)
        elif probability > 0.0:
            chosen = torch.rand(len(batch[0]), 1, 1, 1, generator=generator) < probability
            chosen = chosen.to(batch[0].device)
            moved = move(batch, generator)
            batch = (
                torch.where(chosen, moved[0], batch[0]),
                torch.where(chosen, moved[1], batch[1]),
            )
    return batch
