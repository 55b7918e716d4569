"""The training form and what it collapses into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from engine.network import NetworkConfig
from trainer.blocks import (
    BlockConfig,
    Branches,
    RepConv,
    TrainingNetwork,
    adopt,
    fuse,
    remove_weight_norm,
)
from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.errors import Interrupted
from trainer.loop import Hooks, fit
from trainer.start import start

shapes = st.builds(
    NetworkConfig,
    width=st.integers(3, 12),
    body=st.integers(1, 6),
    skip_every=st.integers(0, 3),
    activation=st.sampled_from(["relu", "leaky_relu"]),
)
blocks = st.builds(
    BlockConfig,
    branches=st.sampled_from(["plain", "rep", "rich", "edge"]),
    weight_norm=st.booleans(),
    expansion=st.integers(1, 3),
)


def trained_a_little(config: NetworkConfig, block: BlockConfig, seed: int) -> TrainingNetwork:
    """A network whose biases and identity gains are not zero any more."""
    network = TrainingNetwork(config, block, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


@settings(max_examples=30, deadline=None)
@given(shapes, blocks, st.integers(0, 99), st.integers(1, 9), st.integers(1, 9))
def test_fuse_gives_a_plain_network_with_the_same_output(
    config: NetworkConfig, block: BlockConfig, seed: int, height: int, width: int
) -> None:
    network = trained_a_little(config, block, seed)
    x = torch.rand(2, 3, height, width)
    with torch.no_grad():
        expected, got = network(x), fuse(network)(x)
    scale = max(1.0, float(expected.abs().max()))
    assert float((expected - got).abs().max()) < 1e-5 * scale
    assert got.shape == (2, 3, 4 * height, 4 * width)


def sum_of_branches(conv: RepConv, x: Tensor) -> Tensor:
    """What the block is for, with a convolution of its own (or two, or three) for each branch."""
    total = F.conv2d(x, conv.weight3, conv.bias, padding=1)
    if conv.has_pointwise:
        total = total + F.conv2d(x, conv.weight1)
    if conv.has_identity:
        total = total + x * conv.identity_gain[:, None, None]
    if conv.has_expansion:
        wide = F.conv2d(x, conv.expand[:, :, None, None])
        deep = F.conv2d(wide, conv.spatial, padding=1)
        total = total + F.conv2d(deep, conv.project[:, :, None, None])
    if conv.has_edges:
        smooth, slope = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])
        laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        filters = [torch.outer(smooth, slope), torch.outer(slope, smooth), laplacian]
        for edge, points, scales in zip(filters, conv.edge_points, conv.edge_scales, strict=True):
            mixed = F.conv2d(x, points[:, :, None, None])
            kernels = (scales[:, None, None] * edge)[:, None]
            total = total + F.conv2d(mixed, kernels, padding=1, groups=len(kernels))
    return total


@settings(max_examples=30, deadline=None)
@given(shapes, blocks, st.integers(0, 99), st.integers(1, 7), st.integers(1, 7))
def test_every_fused_convolution_is_the_sum_of_its_branches(
    config: NetworkConfig, block: BlockConfig, seed: int, height: int, width: int
) -> None:
    network = trained_a_little(config, block, seed)
    pairs = zip(network.rep_convolutions(), fuse(network).convolutions(), strict=True)
    with torch.no_grad():
        for branched, plain in pairs:
            x = torch.randn(2, plain.in_channels, height, width)
            expected, got = sum_of_branches(branched, x), plain(x)
            scale = max(1.0, float(expected.abs().max()))
            assert float((expected - got).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("branches", ["rich", "edge"])
@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_the_branches_beside_the_3x3_are_small_at_the_start(
    branches: Branches, gain: float
) -> None:
    torch.manual_seed(5)
    conv = RepConv(16, 16, BlockConfig(branches), gain)
    with torch.no_grad():
        main, merged = float(conv.weight3.norm()), conv.merged_weight()
        if conv.has_edges:
            conv.edge_scales.zero_()
            edges = float((merged - conv.merged_weight()).norm())
            assert 0 < edges < 0.1 * main
    assert 0.9 < float(merged.norm()) / main < 1.5


@pytest.mark.parametrize("branches", ["plain", "rep", "rich", "edge"])
def test_normalised_plain_parameter_and_fused_forms_agree(branches: str) -> None:
    block = BlockConfig(branches=branches)  # type: ignore[arg-type]
    network = trained_a_little(NetworkConfig(width=8), block, 3)
    x = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        normalised = network(x)
        fused = fuse(network)(x)
        remove_weight_norm(network)
        removed = network(x)
    torch.testing.assert_close(removed, normalised, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(fused, normalised, atol=1e-5, rtol=1e-5)
    assert not any("parametrizations" in name for name, _ in network.named_parameters())


def test_weight_norm_comes_from_torch_parametrizations_and_trains() -> None:
    conv = RepConv(4, 4, BlockConfig(branches="rep"))
    assert {"weight3", "weight1"} == set(conv.parametrizations)
    conv(torch.rand(1, 4, 5, 5)).sum().backward()
    gradients = [p.grad for p in conv.parameters()]
    assert len(gradients) == 5
    assert all(g is not None and float(g.abs().sum()) > 0 for g in gradients)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_gradients_reach_every_parameter_of_every_branch(weight_norm: bool) -> None:
    network = TrainingNetwork(NetworkConfig(width=4, body=2), BlockConfig("edge", weight_norm), 1)
    network(torch.rand(1, 3, 6, 6)).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    names = {name.rpartition(".")[2] for name, _ in network.named_parameters()}
    assert {"edge_points", "edge_scales", "identity_gain", "expand", "bias"} <= names


class Operations(TorchDispatchMode):
    """Notes the name of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_step_makes_no_tensor_on_the_host_so_that_a_cuda_graph_can_hold_it() -> None:
    conv = RepConv(4, 4, BlockConfig("edge"))
    x = torch.rand(1, 4, 5, 5)
    with Operations() as step:
        conv(x).sum().backward()
    host = {"lift_fresh.default", "_to_copy.default", "scalar_tensor.default"}
    assert "convolution.default" in step.names
    assert not host & set(step.names)
    with Operations() as making:
        torch.tensor([1.0])
    assert host & set(making.names)  # or the names mean something else by now


def test_the_filters_are_in_no_checkpoint_and_move_with_the_network() -> None:
    network = TrainingNetwork(NetworkConfig(width=4, body=1), BlockConfig("edge"), 0)
    assert not [name for name in network.state_dict() if "filters" in name]
    assert {b.dtype for b in network.double().buffers()} == {torch.float64}


def test_a_run_with_edge_branches_goes_on_where_it_stopped(
    small: Callable[..., FitConfig], pictures: PictureSet, tmp_path: Path
) -> None:
    config = small(block=BlockConfig("edge"), iterations=6, out=tmp_path / "stopped")
    whole = fit(replace(config, out=tmp_path / "whole"), pictures)
    steps: list[int] = []
    hooks = Hooks(on_step=lambda step, row: steps.append(step), stop=lambda: len(steps) == 3)
    with pytest.raises(Interrupted):
        fit(config, pictures, hooks)
    expected, got = load_file(whole.weights), load_file(fit(config, pictures).weights)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    network = TrainingNetwork(config.network, config.block, seed=9)
    start(network, whole.checkpoint)
    assert torch.equal(fuse(network).conv_mid.weight, expected["conv_mid.weight"])


@pytest.mark.parametrize("branches", ["rep", "edge"])
def test_the_body_is_alive_at_the_start(branches: Branches) -> None:
    network = TrainingNetwork(NetworkConfig(width=16), BlockConfig(branches), 0)
    with torch.no_grad():
        shortcut = network.conv_in(torch.rand(1, 3, 24, 24))
        body = network.run_body(shortcut)
    assert 0.1 < float(body.std() / shortcut.std()) < 10


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    networks = [TrainingNetwork(NetworkConfig(width=4), BlockConfig(), s) for s in (1, 1, 2)]
    a, b, c = (torch.cat([p.flatten() for p in n.parameters()]) for n in networks)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), before)


@settings(max_examples=15)
@given(shapes, blocks, st.integers(0, 99))
def test_a_training_network_can_start_from_plain_weights(
    config: NetworkConfig, block: BlockConfig, seed: int
) -> None:
    plain = fuse(trained_a_little(config, BlockConfig("plain"), seed))
    network = trained_a_little(config, block, seed + 1)
    adopt(network, plain)
    x = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        expected, got = plain(x), network(x)
    scale = max(1.0, float(expected.abs().max()))
    assert float((expected - got).abs().max()) < 1e-4 * scale
