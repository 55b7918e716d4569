"""What is tried only in ablations: a half-resolution trunk and interpolated rotation.

Neither ships, so neither is known to ``engine``.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.contract import SCALE
from engine.network import Network, NetworkConfig
from trainer.augment import Augment, Batch
from trainer.blocks import BlockConfig, RepConv, TrainingNetwork
from trainer.training import Trainer

REDUCTION = 2


class HalfResolutionNetwork(TrainingNetwork):
    """The same layers on 2x2 pixels at once: a quarter of the positions, twice the channels.

    (N, 3, H, W) -> (N, 3, 4H, 4W). At C=16 it costs 49 kMAC per LR pixel, the plain one 42.

    Args:
        config: of the network it is compared with; the trunk has twice its width.
    """

    def __init__(self, config: NetworkConfig, block: BlockConfig, seed: int = 0) -> None:
        wide = replace(config, width=REDUCTION * config.width)
        super().__init__(wide, block, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels = 3 * REDUCTION**2
            outputs = 3 * (SCALE * REDUCTION) ** 2
            self.conv_in = RepConv(pixels, wide.width, block)  # type: ignore[assignment]
            self.conv_out = RepConv(wide.width, outputs, block, 0.1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Odd sizes are padded by replication and cropped."""
        height, width = x.shape[-2:]
        even = F.pad(x, (0, width % REDUCTION, 0, height % REDUCTION), mode="replicate")
        features = self.features(F.pixel_unshuffle(even, REDUCTION))
        output = F.pixel_shuffle(features, SCALE * REDUCTION)
        return output[..., : SCALE * height, : SCALE * width]


class HalfResolutionTrainer(Trainer):
    """Trains a :class:`HalfResolutionNetwork`."""

    def make_network(self) -> TrainingNetwork:
        """The network at the start of the run."""
        return HalfResolutionNetwork(self.config.network, self.config.block, self.config.seed)

    def fused(self) -> Network:
        """A copy as it is: there is no plain form in ``engine``."""
        alone: Network = copy.deepcopy(self.network).eval()
        return alone


def rotate(batch: Batch, generator: torch.Generator) -> Batch:
    """Any angle, bilinear, mirrored at the border: what ``trainer.augment`` never does."""
    angles = torch.rand(len(batch[0]), generator=generator) * 2 * math.pi
    cos, sin, none = torch.cos(angles), torch.sin(angles), torch.zeros(len(angles))
    rows = torch.stack([torch.stack([cos, -sin, none], 1), torch.stack([sin, cos, none], 1)], 1)
    turned = []
    for x in batch:
        grid = F.affine_grid(rows.to(x.device), list(x.shape), align_corners=False)
        y = F.grid_sample(x.float(), grid, padding_mode="reflection", align_corners=False)
        turned.append(y.round().clamp(0, 255).to(x.dtype))
    return turned[0], turned[1]


class InterpolatedRotationTrainer(Trainer):
    """Turns every crop by any angle before the ordinary augmentation."""

    def augmentation(self) -> Augment:
        """Rotation, then the rest."""
        rest = super().augmentation()
        return lambda batch, generator: rest(rotate(batch, generator), generator)
