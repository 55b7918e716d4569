"""The training form and what it collapses into."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from engine.network import NetworkConfig
from trainer.blocks import (
    BlockConfig,
    RepConv,
    TrainingNetwork,
    adopt,
    fuse,
    remove_weight_norm,
)

shapes = st.builds(
    NetworkConfig,
    width=st.integers(3, 12),
    body=st.integers(1, 6),
    skip_every=st.integers(0, 3),
    activation=st.sampled_from(["relu", "leaky_relu"]),
)
blocks = st.builds(
    BlockConfig,
    branches=st.sampled_from(["plain", "rep", "rich"]),
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


@settings(max_examples=15, deadline=None)
@given(blocks, st.integers(3, 8), st.integers(0, 99))
def test_the_merged_kernel_is_the_sum_of_the_branches(
    block: BlockConfig, channels: int, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = RepConv(channels, channels, block)
    x = torch.randn(1, channels, 7, 7)
    expected = F.conv2d(x, conv.weight3, conv.bias, padding=1)
    if conv.has_pointwise:
        expected = expected + F.conv2d(x, conv.weight1)
    if conv.has_identity:
        torch.nn.init.normal_(conv.identity_gain)
        expected = expected + x * conv.identity_gain[:, None, None]
    if conv.has_expansion:
        wide = F.conv2d(x, conv.expand[:, :, None, None])
        deep = F.conv2d(wide, conv.spatial, padding=1)
        expected = expected + F.conv2d(deep, conv.project[:, :, None, None])
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("branches", ["plain", "rep", "rich"])
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


def test_the_body_is_alive_at_the_start() -> None:
    network = TrainingNetwork(NetworkConfig(width=16), BlockConfig(), 0)
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
