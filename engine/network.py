"""The network that ships: 17 plain 3x3 convolutions, nothing to fold away.

``conv_in`` 3->C, 14 body convolutions with an activation each, one shortcut from ``conv_in``'s
output added after them, two linear output convolutions C->C and C->48, PixelShuffle(4). Local
skips (``skip_every``) add the input of each group of body convolutions before the activation of
its last one, so that a runtime fuses convolution, addition and activation into one kernel.

Training forms (branches, weight normalisation) live in ``trainer.blocks`` and collapse into this.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.config import LEAKY_SLOPE, NetworkConfig
from engine.contract import SCALE

__all__ = ["LEAKY_SLOPE", "Network", "NetworkConfig", "activate"]


class Network(nn.Module):
    """(N, 3, H, W) float in [0, 1] -> (N, 3, 4H, 4W) float, not clipped.

    Args:
        config: the shape of the network.
        seed: weights are drawn from it (He initialisation); loading replaces them.
    """

    def __init__(self, config: NetworkConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        c = config.width
        self.conv_in = nn.Conv2d(3, c, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(config.body))
        self.conv_mid = nn.Conv2d(c, c, 3, padding=1)
        self.conv_out = nn.Conv2d(c, 3 * SCALE * SCALE, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for convolution in self.convolutions():
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions in the order in which a frame meets them."""
        modules = [self.conv_in, *self.body, self.conv_mid, self.conv_out]
        return [m for m in modules if isinstance(m, nn.Conv2d)]

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 48, H, W): the picture before PixelShuffle."""
        shortcut = self.conv_in(x)
        return self.tail(shortcut + self.run_body(shortcut))

    def tail(self, h: Tensor) -> Tensor:
        """The two linear output convolutions: (N, C, H, W) -> (N, 48, H, W)."""
        return self.conv_out(self.conv_mid(h))  # type: ignore[no-any-return]

    def run_body(self, h: Tensor) -> Tensor:
        """The non-linear body alone, without the long shortcut: (N, C, H, W) -> same."""
        group_input = h
        for index, convolution in enumerate(self.body):
            h = convolution(h)
            if self.config.closes_group(index):
                h = group_input = activate(h + group_input, self.config.activation)
            else:
                h = activate(h, self.config.activation)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 4H, 4W)."""
        return F.pixel_shuffle(self.features(x), SCALE)


def activate(h: Tensor, name: str) -> Tensor:
    """The activation called ``name``, not in place (the input may be a skip)."""
    return F.relu(h) if name == "relu" else F.leaky_relu(h, LEAKY_SLOPE)
