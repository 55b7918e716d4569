"""What real video does to a picture: blur, noise, and H.264, JPEG or WebP compression.

LR pictures are degraded whole, so that a block of the codec may cross the border of a crop.
Copies are made again as training goes on: a picture has a new copy every ``REFRESH`` iterations,
made when a crop of it is next drawn, which spreads the cost. A copy is drawn from (seed,
picture, age), so that a resumed run sees the same ones.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from trainer.bicubic import Picture
from trainer.data import Pair
from trainer.h264 import coded_copies

REFRESH = 2_000
CLIP_FRAMES = 4


@dataclass(frozen=True, slots=True)
class DegradeConfig:
    """How often and how strongly; ranges are drawn from uniformly."""

    h264: float = 0.75
    """Probability of H.264; the rest is JPEG, WebP and no compression in equal parts."""
    crf: tuple[int, int] = (23, 38)
    """x264's constant rate factor without its macroblock tree: 4 more is as bad as with it."""
    pan: int = 4
    """Largest motion of the coded clip, in LR pixels a frame."""
    quality: tuple[int, int] = (35, 95)
    """JPEG and WebP quality."""
    blur: float = 0.15
    """Probability of a Gaussian blur of radius 0.2..0.7 LR pixels."""
    noise: float = 0.15
    """Probability of Gaussian noise of 1..4 grey levels."""


def degrade(
    picture: Picture, generator: np.random.Generator, config: DegradeConfig | None = None
) -> Picture:
    """(H, W, 3) uint8 RGB -> a worse picture of the same shape."""
    config = config or DegradeConfig()
    if generator.random() < config.blur:
        picture = blurred(picture, generator.uniform(0.2, 0.7))
    if generator.random() < config.noise:
        picture = noised(picture, generator.uniform(1.0, 4.0), generator)
    if generator.random() < config.h264:
        crf = int(generator.integers(config.crf[0], config.crf[1] + 1))
        pan = generator.integers(-config.pan, config.pan + 1, size=2)
        shown = int(generator.integers(CLIP_FRAMES))
        return coded_as_video(picture, crf, (int(pan[0]), int(pan[1])), shown)
    codec = str(generator.choice(["JPEG", "WEBP", "none"]))
    quality = int(generator.integers(config.quality[0], config.quality[1] + 1))
    return picture if codec == "none" else coded_as_picture(picture, codec, quality)


def blurred(picture: Picture, radius: float) -> Picture:
    """Gaussian blur; ``radius`` is the standard deviation in pixels."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def noised(picture: Picture, sigma: float, generator: np.random.Generator) -> Picture:
    """Adds Gaussian noise of ``sigma`` grey levels."""
    noise: NDArray[np.float64] = generator.normal(0.0, sigma, picture.shape)
    return (picture + noise).clip(0, 255).round().astype(np.uint8)


def coded_as_picture(picture: Picture, codec: str, quality: int) -> Picture:
    """Through Pillow's ``JPEG`` or ``WEBP`` (both 4:2:0) at ``quality`` 0..100."""
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, codec, quality=quality)
    with Image.open(memory) as decoded:
        return np.asarray(decoded.convert("RGB"))


def coded_as_video(picture: Picture, crf: int, pan: tuple[int, int], shown: int = 2) -> Picture:
    """Frame ``shown`` of a short H.264 clip that pans over the picture by ``pan`` pixels a frame.

    The frame that is returned shows the picture unmoved. Sides of the clip are made even by
    repeating the last row or column.
    """
    height, width = picture.shape[:2]
    reach = max(abs(pan[0]), abs(pan[1])) * (CLIP_FRAMES - 1)
    odd = ((reach, reach + height % 2), (reach, reach + width % 2), (0, 0))
    wide = np.pad(picture, odd, mode="edge")
    tall, broad = height + height % 2, width + width % 2
    clip = []
    for index in range(CLIP_FRAMES):
        y = reach + (index - shown) * pan[0]
        x = reach + (index - shown) * pan[1]
        clip.append(wide[y : y + tall, x : x + broad])
    return coded_copies(clip, crf, preset="medium")[shown][:height, :width]


def degraded_tensor(lr: Tensor, seed: tuple[int, ...], config: DegradeConfig) -> Tensor:
    """(3, H, W) uint8 on the CPU -> a degraded copy that ``seed`` alone decides."""
    picture = np.ascontiguousarray(lr.permute(1, 2, 0).numpy())
    worse = degrade(picture, np.random.default_rng(seed), config)
    return torch.from_numpy(np.ascontiguousarray(worse.transpose(2, 0, 1)))


class DegradedCopies:
    """One degraded LR copy of every training picture, each made again every ``refresh`` steps.

    Args:
        pairs: of the training set.
        seed: of the run.
        refresh: iterations that a copy lives; pictures take turns.
    """

    def __init__(
        self,
        pairs: list[Pair],
        seed: int,
        config: DegradeConfig | None = None,
        refresh: int = REFRESH,
    ) -> None:
        self.originals = [pair.lr.cpu() for pair in pairs]
        self.device = pairs[0].lr.device
        self.seed, self.refresh = seed, refresh
        self.config = config or DegradeConfig()
        self.copies: dict[int, tuple[int, Tensor]] = {}

    def at(self, index: int, step: int) -> Tensor:
        """The LR copy (3, H, W) uint8 of picture ``index`` at iteration ``step``."""
        turn = index * self.refresh // len(self.originals)
        age = (step + turn) // self.refresh
        kept = self.copies.get(index)
        if kept is None or kept[0] != age:
            fresh = degraded_tensor(self.originals[index], (self.seed, index, age), self.config)
            kept = self.copies[index] = (age, fresh.to(self.device))
        return kept[1]


def degraded_validation(pairs: list[Pair]) -> list[Pair]:
    """The same pairs with LR as H.264 makes it at crf 28 (one clip each, always the same)."""
    out = []
    for index, pair in enumerate(pairs):
        config = DegradeConfig(h264=1.0, crf=(32, 32), blur=0.0, noise=0.0)
        lr = degraded_tensor(pair.lr.cpu(), (28, index), config)
        out.append(Pair(pair.name, pair.hr, lr.to(pair.lr.device)))
    return out
