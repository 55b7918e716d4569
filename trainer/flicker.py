"""Clips: PSNR of the frames, and flicker where the filmed thing only moved.

The motion between two HR frames is found by block matching on whole pixels. Each enlarged frame is
moved along and compared with the next one, on the pixels that the motion explains in HR. HR itself
has the flicker that is in the material; a method should stay near it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.contract import SCALE
from trainer.bicubic import Picture, crop_to_multiple, downscale
from trainer.data import list_pictures, read_picture
from trainer.errors import DataError
from trainer.evaluate import Enlarge
from trainer.h264 import read_clip
from trainer.metrics import luma, psnr_y

BLOCK, REACH, EXPLAINED = 16, 8, 4.0


def read_frames(path: Path, limit: int, multiple: int = SCALE) -> Iterator[Picture]:
    """The first frames of a folder of pictures (sorted by name) or of a video file.

    Right and bottom are cut so that both sides divide by ``multiple``.
    """
    if path.is_dir():
        for file in list_pictures(path)[:limit]:
            yield crop_to_multiple(read_picture(file), multiple)
    else:
        for frame in read_clip(path, limit):
            yield crop_to_multiple(frame, multiple)


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


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """One moment: ``hr`` (4H, 4W, 3) and ``lr`` (H, W, 3), uint8."""

    hr: Picture
    lr: Picture


def read_moments(clip: Path, lr_clip: Path | None, limit: int) -> Iterator[ClipFrame]:
    """HR frames with their LR: reduced by ``trainer.bicubic``, or taken from a (coded) LR clip.

    Raises:
        DataError: unreadable, or the LR clip is not a quarter of the size or shorter.
    """
    if lr_clip is None:
        for hr in read_frames(clip, limit):
            yield ClipFrame(hr, downscale(hr))
        return
    lr_frames = read_frames(lr_clip, limit, multiple=1)
    for hr in read_frames(clip, limit):
        lr = next(lr_frames, None)
        if lr is None:
            raise DataError(f"{lr_clip} has fewer frames than {clip}; give a longer one")
        if (lr.shape[0] * SCALE, lr.shape[1] * SCALE) != hr.shape[:2]:
            raise DataError(
                f"{lr_clip} is {lr.shape[1]}x{lr.shape[0]}, not a quarter of {clip} "
                f"({hr.shape[1]}x{hr.shape[0]})"
            )
        yield ClipFrame(hr, lr)


def score_clip(
    methods: dict[str, Enlarge], moments: Iterator[ClipFrame]
) -> dict[str, dict[str, float]]:
    """``psnr_y_db`` and ``flicker_grey_levels`` (mean warped difference) by method.

    ``hr`` has the flicker of the material, and no PSNR.

    Raises:
        DataError: fewer than two frames.
    """
    differences: dict[str, list[float]] = {name: [] for name in ["hr", *methods]}
    psnrs: dict[str, list[float]] = {name: [] for name in methods}
    before: dict[str, Tensor] | None = None
    for moment in moments:
        hr, lr = _tensor(moment.hr), _tensor(moment.lr)
        enlarged = {name: method(lr) for name, method in methods.items()}
        for name, picture in enlarged.items():
            psnrs[name].append(min(100.0, psnr_y(picture[None], hr[None])))
        now = {"hr": grey(hr)} | {name: grey(picture) for name, picture in enlarged.items()}
        if before is not None:
            for name, value in warped_differences(before, now).items():
                differences[name].append(value)
        before = now
    if not differences["hr"]:
        raise DataError("a clip needs at least two frames to flicker; give a longer one")
    scores = {name: {"flicker_grey_levels": mean(v)} for name, v in differences.items()}
    for name, values in psnrs.items():
        scores[name]["psnr_y_db"] = mean(values)
    return scores


def warped_differences(before: dict[str, Tensor], now: dict[str, Tensor]) -> dict[str, float]:
    """Mean difference in grey levels of each method where HR's own motion explains HR."""
    shift = motion(before["hr"], now["hr"])
    explained = (warp(before["hr"], shift) - now["hr"]).abs() < EXPLAINED
    out = {}
    for name, picture in now.items():
        difference = (warp(before[name], shift) - picture).abs()[explained]
        out[name] = float(difference.mean()) if len(difference) else 0.0
    return out


def _tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())
