"""All pictures of a set in one block of memory, from which a device cuts whole batches at once.

``trainer.sampling`` cuts crop by crop, a few hundred small operations a batch: nothing beside a
step on a CPU, more than the step itself on a GPU. Here a batch is two reads through tables of
indices, turns and mirrors included, and nothing waits for the host: a CUDA graph can hold it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.contract import SCALE
from trainer.data import Pair
from trainer.sampling import Cropping, chosen


class Atlas:
    """The pixels of ``pairs`` on their device, (pixels, 3) uint8 each of LR and HR."""

    def __init__(self, pairs: list[Pair]) -> None:
        device = pairs[0].lr.device
        self._lr, self._hr = (
            torch.cat([picture.permute(1, 2, 0).reshape(-1, 3) for picture in pictures])
            for pictures in ([p.lr for p in pairs], [p.hr for p in pairs])
        )
        sizes = torch.tensor([pair.lr.shape[1:] for pair in pairs], device=device)
        self._heights, self._widths = sizes[:, 0], sizes[:, 1]
        areas = self._heights * self._widths
        self._starts = areas.cumsum(0) - areas

    def batch(self, draws: Tensor, moves: Tensor, cropping: Cropping) -> tuple[Tensor, Tensor]:
        """The batch of ``trainer.sampling.sample_batch`` for the same draws, each crop moved.

        Args:
            draws: (N, 4) from ``trainer.sampling.draw``, on the pictures' device.
            moves: (B,) int64 in 0..7, as ``trainer.augment.flips_and_rotations`` numbers them.

        Returns:
            LR (B, 3, P, P) and HR (B, 3, 4P, 4P), uint8, in channels_last layout.
        """
        which = draws[:, 0].long()
        spans = torch.stack([self._heights[which], self._widths[which]], 1) - cropping.patch + 1
        # As on the host: a float32 fraction times a span, in double precision, cut off.
        corners = (draws[:, 1:3].double() * spans).long()
        if cropping.candidates > 1:
            still = torch.zeros_like(which)
            crops = self._cut(self._lr, (which, corners, still), cropping.patch, 1)
            taken = chosen(crops, draws[:, 3], cropping.batch)
            which, corners = which[taken], corners[taken]
        places = which, corners, moves
        lr = self._cut(self._lr, places, cropping.patch, 1)
        return lr, self._cut(self._hr, places, cropping.patch * SCALE, SCALE)

    def _cut(
        self, pixels: Tensor, places: tuple[Tensor, Tensor, Tensor], side: int, scale: int
    ) -> Tensor:
        which, corners, moves = places
        rows, columns = source_grid(moves, side)
        y = rows + (corners[:, 0] * scale)[:, None, None]
        x = columns + (corners[:, 1] * scale)[:, None, None]
        start, width = self._starts[which] * scale**2, self._widths[which] * scale
        index = start[:, None, None] + y * width[:, None, None] + x
        return pixels[index].permute(0, 3, 1, 2)


def source_grid(moves: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns, each (B, side, side), that a moved square picture takes its pixels from.

    ``moves`` is ``quarter turns + 4 * mirrored``: ``rot90`` counter-clockwise, then left to right.
    """
    line = torch.arange(side, device=moves.device)
    i, j = line[None, :, None], line[None, None, :]
    turns, mirrored = (moves % 4)[:, None, None], (moves >= 4)[:, None, None]
    j = torch.where(mirrored, side - 1 - j, j)
    last = side - 1
    # Where pixel (i, j) of a picture lay before it was turned 0, 1, 2 or 3 times.
    sources = [(i, j), (j, last - i), (last - i, last - j), (last - j, i)]
    rows, columns = i.expand(turns.shape[0], side, side), j.expand(turns.shape[0], side, side)
    for turn, (row, column) in enumerate(sources):
        rows = torch.where(turns == turn, row, rows)
        columns = torch.where(turns == turn, column, columns)
    return rows, columns
