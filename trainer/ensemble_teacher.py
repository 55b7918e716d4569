"""Targets within reach: the original blended with what an x8 self-ensemble makes of it.

Most of what a small network gets wrong is detail that the low resolution does not hold; as a target
that is noise in every gradient. The mean over the eight flips and turns of a picture is nearer to
the original than one output is, and holds only what can be known. The same as distilling from that
teacher with weight ``share`` and MSE (Hinton et al. 2015), but computed once per picture instead of
at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from trainer.data import Pair
from trainer.evaluate import enlarge_with
from trainer.weights import load_network


def blended(pairs: list[Pair], weights: Path, share: float) -> list[Pair]:
    """``pairs`` with ``share`` of the teacher's output in each HR picture.

    Args:
        pairs: on any device; the teacher computes there.
        weights: a weights file of any width.
        share: 0 leaves the originals, 1 takes the teacher alone.

    Raises:
        engine.errors.ModelError: the weights are missing, damaged or untrained.
    """
    network = load_network(str(weights)).to(pairs[0].lr.device)
    teacher = enlarge_with([network], self_ensemble=True)
    taught = []
    # Pictures have several sizes, each seen eight times: not worth cuDNN's trials.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        for pair in _shown(pairs):
            taught.append(replace(pair, hr=blend(pair.hr, teacher(pair.lr), share)))
    return taught


def blend(original: Tensor, output: Tensor, share: float) -> Tensor:
    """``(1 - share) * original + share * output`` of two uint8 pictures, rounded to uint8."""
    return torch.lerp(original.float(), output.float(), share).round().to(torch.uint8)


def _shown(pairs: list[Pair]) -> Iterator[Pair]:
    few: Iterable[Pair] = pairs
    console = Console(stderr=True)
    yield from track(few, "asking the teacher", console=console, disable=len(pairs) < 50)
