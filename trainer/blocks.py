"""The training form: over-parameterised blocks that collapse into one convolution each.

A block holds parallel branches (3x3, 1x1, identity, 1x1 -> 3x3 -> 1x1 expansion, 1x1 -> edge
filter) with one shared bias. Branches are merged in weight space at every step, so that training
runs one convolution per layer, whatever the block holds (SESR, Bhardwaj et al. 2022), and there is
no border mismatch between branches. 3x3 || 1x1 with a shared bias is RepVGG's idea without the
batch norm.

``edge`` is the edge-oriented convolution block (ECB, Zhang et al. 2021: 3x3, expansion, Sobel x,
Sobel y, Laplacian, and where wanted the identity) on top of ``rich``, which has the others of
these. ECB puts a bias behind each 1x1; here none is, so that a border of zeros is one for both
convolutions, and the biases behind the filters are the shared one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from engine.network import Network, NetworkConfig

Branches = Literal["plain", "rep", "rich", "edge"]
SOBEL_X = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
SOBEL_Y = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """How a convolution is over-parameterised while it trains."""

    branches: Branches = "rep"
    """``plain``: 3x3 alone. ``rep``: 3x3 || 1x1. ``rich``: those, identity and 1x1->3x3->1x1.
    ``edge``: those and 1x1->Sobel x, 1x1->Sobel y, 1x1->Laplacian with learned scales (ECB)."""
    weight_norm: bool = True
    """Weight normalisation (Salimans & Kingma 2016) of the 3x3 and the 1x1."""
    expansion: int = 2
    """Hidden channels of the 1-3-1 branch as a multiple of the block's output channels."""

    @property
    def rich(self) -> bool:
        """Whether there are an identity and a 1-3-1 branch."""
        return self.branches in ("rich", "edge")


class RepConv(nn.Module):
    """One 3x3 convolution, (N, cin, H, W) -> (N, cout, H, W), made of branches while training.

    Args:
        cin, cout: channels. The identity branch needs them equal and is left out otherwise.
        config: which branches, and whether they are weight-normalised.
        gain: factor on the He-initialised 3x3 kernel.
    """

    def __init__(self, cin: int, cout: int, config: BlockConfig, gain: float = 1.0) -> None:
        super().__init__()
        self.weight3 = nn.Parameter(torch.empty(cout, cin, 3, 3))
        self.bias = nn.Parameter(torch.zeros(cout))
        nn.init.kaiming_normal_(self.weight3, nonlinearity="relu")
        with torch.no_grad():
            self.weight3.mul_(gain)
        self.has_identity = config.rich and cin == cout
        self.has_pointwise = config.branches != "plain"
        self.has_expansion = config.rich
        self.has_edges = config.branches == "edge"
        names = ["weight3"]
        if self.has_pointwise:
            # Small: the merged kernel must start at He scale, or 14 layers deep it explodes.
            self.weight1 = nn.Parameter(torch.randn(cout, cin, 1, 1) * (0.1 * gain / cin**0.5))
            names.append("weight1")
        if self.has_expansion:
            hidden = config.expansion * cout
            self.expand = nn.Parameter(torch.randn(hidden, cin) / cin**0.5)
            self.spatial = nn.Parameter(
                torch.randn(hidden, hidden, 3, 3) * 0.1 / (9 * hidden) ** 0.5
            )
            self.project = nn.Parameter(torch.randn(cout, hidden) / hidden**0.5)
        if self.has_identity:
            self.identity_gain = nn.Parameter(torch.zeros(cout))
        if self.has_edges:
            filters = torch.tensor([SOBEL_X, SOBEL_Y, LAPLACIAN])
            self.register_buffer("edge_filters", filters, persistent=False)
            self.edge_points = nn.Parameter(torch.randn(3, cout, cin) / cin**0.5)
            # Not zero, or no gradient would reach the points; small for the same reason as weight1.
            self.edge_scales = nn.Parameter(torch.randn(3, cout) * (0.01 * gain))
        if config.weight_norm:
            for name in names:
                parametrizations.weight_norm(self, name, dim=0)

    def merged_weight(self) -> Tensor:
        """(cout, cin, 3, 3): the kernel that all branches together amount to."""
        kernel: Tensor = self.weight3
        point: Tensor | None = self.weight1[:, :, 0, 0] if self.has_pointwise else None
        if self.has_identity:
            identity = torch.diag(self.identity_gain)
            point = identity if point is None else point + identity
        if point is not None:
            kernel = kernel + F.pad(point[:, :, None, None], (1, 1, 1, 1))
        if self.has_expansion:
            inner = torch.einsum("ohyx,hc->ocyx", self.spatial, self.expand)
            kernel = kernel + torch.einsum("oh,hcyx->ocyx", self.project, inner)
        if self.has_edges:
            points = self.edge_scales[:, :, None] * self.edge_points
            kernel = kernel + torch.einsum("eoc,eyx->ocyx", points, self.edge_filters)
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) -> (N, cout, H, W) through the merged kernel."""
        return F.conv2d(x, self.merged_weight(), self.bias, padding=1)


class TrainingNetwork(Network):
    """``engine.network.Network`` with every convolution replaced by a :class:`RepConv`.

    Same input, output and ranges; :func:`fuse` gives the plain network with equal outputs.
    """

    def __init__(self, config: NetworkConfig, block: BlockConfig, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            super().__init__(config)
            self.block = block
            torch.manual_seed(seed)
            self.conv_in = self._rep(self.conv_in)
            self.body = nn.ModuleList(self._rep(m) for m in self.body)
            self.conv_mid = self._rep(self.conv_mid)
            # A small last layer starts near a grey picture; at He scale the first hundred
            # iterations go into unlearning noise of twice the range of the data.
            self.conv_out = self._rep(self.conv_out, gain=0.1)

    def _rep(self, plain: nn.Module, gain: float = 1.0) -> nn.Conv2d:
        assert isinstance(plain, nn.Conv2d)
        return RepConv(  # type: ignore[return-value]
            plain.in_channels, plain.out_channels, self.block, gain
        )

    def rep_convolutions(self) -> list[RepConv]:
        """The blocks in the order in which a frame meets them."""
        modules: list[nn.Module] = [self.conv_in, *self.body, self.conv_mid, self.conv_out]
        return [m for m in modules if isinstance(m, RepConv)]


@torch.no_grad()
def fuse(network: TrainingNetwork) -> Network:
    """The plain network with the same outputs (within float32 rounding), on the CPU, in float32."""
    plain = Network(network.config)
    for target, source in zip(plain.convolutions(), network.rep_convolutions(), strict=True):
        assert target.bias is not None
        target.weight.copy_(source.merged_weight())
        target.bias.copy_(source.bias)
    return plain.eval()


@torch.no_grad()
def adopt(network: TrainingNetwork, plain: Network) -> None:
    """Sets the branches of ``network`` so that its outputs are those of ``plain``.

    Raises:
        ValueError: the two have different configurations.
    """
    if network.config != plain.config:
        raise ValueError(f"{plain.config} cannot start a network of {network.config}")
    for block, source in zip(network.rep_convolutions(), plain.convolutions(), strict=True):
        others = block.merged_weight() - block.weight3
        if parametrize.is_parametrized(block, "weight3"):
            block.weight3 = source.weight - others  # type: ignore[assignment]  # right_inverse
        else:
            block.weight3.copy_(source.weight - others)
        assert source.bias is not None
        block.bias.copy_(source.bias)


def remove_weight_norm(network: TrainingNetwork) -> None:
    """Replaces every normalised weight by its current value; outputs stay the same."""
    for block in network.rep_convolutions():
        for name in list(getattr(block, "parametrizations", {})):
            parametrize.remove_parametrizations(block, name, leave_parametrized=True)


@contextmanager
def merged_once(network: TrainingNetwork) -> Iterator[None]:
    """Inside, each normalised weight is computed once per step rather than once per use."""
    with parametrize.cached():
        yield
    del network
