"""Flicker: how much an enlarged clip changes where the filmed thing only moved.

The motion between two HR frames is found by block matching on whole pixels. Each enlarged frame is
moved along and compared with the next one, on the pixels that the motion explains in HR. HR itself
has the flicker that is in the material; a method should stay near it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.contract import SCALE
from trainer.bicubic import Picture, crop_to_multiple, downscale
from trainer.data import list_pictures, read_picture
from trainer.errors import DataError
from trainer.evaluate import Enlarge
from trainer.h264 import read_clip
from trainer.metrics import luma

BLOCK, REACH, EXPLAINED = 16, 8, 4.0


def read_frames(path: Path, limit: int) -> Iterator[Picture]:
    """The first ``limit`` HR frames of a folder of pictures (sorted by name) or of a video file."""
    if path.is_dir():
        for file in list_pictures(path)[:limit]:
            yield crop_to_multiple(read_picture(file), SCALE)
    else:
        for frame in read_clip(path, limit):
            yield crop_to_multiple(frame, SCALE)


def grey(frame: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (H, W) float32 luma."""
    return luma(frame[None].float())[0, 0]


def motion(before: Tensor, after: Tensor) -> Tensor:
    """Per 16x16 block of ``after``, the whole-pixel shift that finds it in ``before``.

    Args:
        before, after: (H, W) float.

    Returns:
        (2, H, W) int64: add it to a pixel's (y, x) to get where it was.
    """
    height, width = after.shape
    best = torch.full((height, width), torch.inf)
    shift = torch.zeros(2, height, width, dtype=torch.int64)
    padded = F.pad(before[None, None], (REACH,) * 4, mode="replicate")[0, 0]
    for dy, dx in sorted(_shifts(), key=lambda s: abs(s[0]) + abs(s[1])):
        there = padded[REACH + dy :, REACH + dx :][:height, :width]
        cost = F.avg_pool2d((there - after).abs()[None, None], BLOCK, ceil_mode=True)
        cost = F.interpolate(cost, scale_factor=BLOCK)[0, 0, :height, :width]
        better = cost < best
        best = torch.where(better, cost, best)
        shift[0].masked_fill_(better, dy)
        shift[1].masked_fill_(better, dx)
    return shift


def _shifts() -> list[tuple[int, int]]:
    span = range(-REACH, REACH + 1)
    return [(dy, dx) for dy in span for dx in span]


def warp(frame: Tensor, shift: Tensor) -> Tensor:
    """(H, W) moved by :func:`motion`'s shift; beyond the border the nearest pixel."""
    height, width = frame.shape
    y = (torch.arange(height)[:, None] + shift[0]).clamp(0, height - 1)
    x = (torch.arange(width)[None, :] + shift[1]).clamp(0, width - 1)
    return frame[y, x]


def flicker(methods: dict[str, Enlarge], frames: Iterator[Picture]) -> dict[str, float]:
    """Mean warped difference in grey levels of each method, and of ``hr``.

    Raises:
        DataError: fewer than two frames.
    """
    totals = dict.fromkeys(["hr", *methods], 0.0)
    before: dict[str, Tensor] | None = None
    count = 0
    for frame in frames:
        now = _enlarged(methods, frame)
        if before is not None:
            shift = motion(before["hr"], now["hr"])
            explained = (warp(before["hr"], shift) - now["hr"]).abs() < EXPLAINED
            for name, picture in now.items():
                difference = (warp(before[name], shift) - picture).abs()[explained]
                totals[name] += float(difference.mean()) if len(difference) else 0.0
            count += 1
        before = now
    if not count:
        raise DataError("a clip needs at least two frames to flicker; give a longer one")
    return {name: total / count for name, total in totals.items()}


def _tensor(picture: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())


def _enlarged(methods: dict[str, Enlarge], frame: Picture) -> dict[str, Tensor]:
    lr = _tensor(downscale(frame))
    return {"hr": grey(_tensor(frame))} | {name: grey(f(lr)) for name, f in methods.items()}
