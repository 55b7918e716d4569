"""How good weights are: PSNR and SSIM on pictures, beside bicubic, and flicker on clips.

Convention: HR cropped to a multiple of 4, LR by ``trainer.bicubic``, output rounded to uint8,
4 pixels shaved off, Y of BT.601; SSIM with an 11x11 Gaussian window of sigma 1.5. Every file is
read as RGB, so Set14 is the variant in which bicubic has 26.09 dB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.network import Network
from trainer import bicubic
from trainer.data import Pair, load_pair, picture_files
from trainer.metrics import luma, mean_ssim, psnr, psnr_y, to_uint8

Enlarge = Callable[[Tensor], Tensor]
"""(3, H, W) uint8 -> (3, 4H, 4W) uint8."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one picture, or means over pictures."""

    psnr_y_db: float
    ssim_y: float
    psnr_rgb_db: float
    ssim_rgb: float


def enlarge_with(networks: Sequence[Network], self_ensemble: bool = False) -> Enlarge:
    """The rounded mean output of ``networks``.

    Args:
        networks: several are averaged (seed averaging).
        self_ensemble: also average over the 8 flips and rotations of the picture, moved back.
    """
    moves = range(8) if self_ensemble else range(1)

    @torch.inference_mode()
    def enlarge(lr: Tensor) -> Tensor:
        x = lr[None].float().div(255.0)
        total = torch.zeros((), device=x.device)
        for network in networks:
            for move in moves:
                total = total + unmoved(network(moved(x, move)), move)
        return to_uint8(total / (len(networks) * len(moves)))[0]

    return enlarge


def moved(x: Tensor, move: int) -> Tensor:
    """One of the 8 flips and 90-degree rotations of (..., H, W); 0 is none."""
    x = torch.rot90(x, move % 4, (-2, -1))
    return x.flip(-1) if move >= 4 else x


def unmoved(x: Tensor, move: int) -> Tensor:
    """Undoes :func:`moved`."""
    x = x.flip(-1) if move >= 4 else x
    return torch.rot90(x, -(move % 4), (-2, -1))


def bicubic_enlarge(lr: Tensor) -> Tensor:
    """The baseline."""
    picture = np.ascontiguousarray(lr.permute(1, 2, 0).numpy())
    return torch.from_numpy(bicubic.upscale(picture).transpose(2, 0, 1).copy())


def score(output: Tensor, hr: Tensor) -> Scores:
    """Of two (3, 4H, 4W) uint8 pictures. Equal ones have 100 dB, which JSON can hold."""
    a, b = output[None].double(), hr[None].double()
    of_y = min(100.0, psnr_y(a, b)), mean_ssim(luma(a), luma(b))
    return Scores(*of_y, min(100.0, psnr(a, b)), mean_ssim(a, b))


def mean(scores: Sequence[Scores]) -> Scores:
    """Field by field."""
    names = [field.name for field in fields(Scores)]
    return Scores(*(sum(getattr(s, name) for s in scores) / len(scores) for name in names))


def rounded(scores: Scores) -> dict[str, float]:
    """For people and JSON: 5 digits after the point."""
    return {name: round(value, 5) for name, value in asdict(scores).items()}


def read_pairs(folder: Path) -> list[Pair]:
    """Every picture of ``folder`` with its LR, at least 12x12 LR pixels (SSIM needs a window).

    Raises:
        DataError: names the folder or file.
    """
    return [load_pair(hr, lr, 12) for hr, lr in picture_files(folder).items()]


def evaluate(methods: dict[str, Enlarge], pairs: list[Pair]) -> dict[str, object]:
    """Scores of each method on each pair, as JSON values.

    Returns:
        ``{"pictures": {name: {method: scores}}, "mean": {method: scores}}``.
    """
    pictures: dict[str, dict[str, object]] = {}
    collected: dict[str, list[Scores]] = {method: [] for method in methods}
    for pair in pairs:
        row: dict[str, object] = {}
        for method, enlarge in methods.items():
            scores = score(enlarge(pair.lr), pair.hr)
            collected[method].append(scores)
            row[method] = rounded(scores)
        pictures[pair.name] = row
    return {
        "pictures": pictures,
        "mean": {method: rounded(mean(scores)) for method, scores in collected.items()},
    }
