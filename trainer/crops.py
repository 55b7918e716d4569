"""Choosing the crops that a page shows: the busiest of a picture, the hardest, the dullest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.contract import SCALE
from trainer.data import Pair
from trainer.evaluate import Enlarge, bicubic_enlarge
from trainer.metrics import psnr_y

SIDE = 48


@dataclass(frozen=True, slots=True)
class Crop:
    """An aligned cut: ``lr`` (3, S, S), and ``hr`` and enlargements by name (3, 4S, 4S), uint8."""

    name: str
    lr: Tensor
    hr: Tensor
    enlarged: dict[str, Tensor]

    def psnr_y_db(self, method: str) -> float:
        """Against HR; nothing is shaved, the cut has its surroundings' pixels already."""
        return min(100.0, psnr_y(self.enlarged[method][None], self.hr[None]))


def tiles(pair: Pair, methods: dict[str, Enlarge], side: int = SIDE) -> list[Crop]:
    """The picture enlarged whole, then cut into ``side`` LR pixel squares without overlap."""
    enlarged = {name: method(pair.lr) for name, method in methods.items()}
    height, width = pair.lr.shape[1:]
    side = min(side, height, width)
    crops = []
    for y in range(0, height - side + 1, side):
        for x in range(0, width - side + 1, side):
            lr = pair.lr[:, y : y + side, x : x + side]
            big = slice(y * SCALE, (y + side) * SCALE), slice(x * SCALE, (x + side) * SCALE)
            cut = {name: picture[:, *big] for name, picture in enlarged.items()}
            crops.append(Crop(f"{pair.name} ({x}, {y})", lr, pair.hr[:, *big], cut))
    return crops


def all_tiles(pairs: list[Pair], methods: dict[str, Enlarge]) -> list[Crop]:
    """Of every pair, with bicubic beside ``methods``."""
    with_baseline = {"bicubic": bicubic_enlarge} | methods
    return [crop for pair in pairs for crop in tiles(pair, with_baseline)]


def by_detail(crops: list[Crop]) -> list[Crop]:
    """The busiest first, one per picture at most."""
    return _one_per_picture(sorted(crops, key=lambda c: -float(c.hr.float().std((1, 2)).mean())))


def by_psnr(crops: list[Crop], method: str, best_first: bool = False) -> list[Crop]:
    """The worst first (or best), one per picture at most."""
    return _one_per_picture(sorted(crops, key=lambda c: c.psnr_y_db(method), reverse=best_first))


def _one_per_picture(crops: list[Crop]) -> list[Crop]:
    seen: set[str] = set()
    kept = []
    for crop in crops:
        picture = crop.name.split(" (")[0]
        if picture not in seen:
            seen.add(picture)
            kept.append(crop)
    return kept


def as_float(pixels: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (1, 3, H, W) float in [0, 1]."""
    return pixels[None].to(torch.float32) / 255
