"""The numbers of the report, on pictures whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.network import Network, NetworkConfig
from trainer import analysis
from trainer.crops import tiles
from trainer.data import Pair, PictureSet
from trainer.evaluate import bicubic_enlarge


@given(st.integers(3, 10), st.sampled_from([0, 2]), st.integers(0, 99))
def test_the_two_paths_add_up_to_the_network(width: int, skips: int, seed: int) -> None:
    network = Network(NetworkConfig(width=width, body=4, skip_every=skips), seed)
    with torch.no_grad():
        for convolution in network.convolutions():
            convolution.bias.normal_(0, 0.1)  # type: ignore[union-attr]
        x = torch.rand(1, 3, 7, 9)
        expected = network(x)
    paths = analysis.split_paths(network, x)
    torch.testing.assert_close(paths.shortcut + paths.body, expected, atol=1e-4, rtol=1e-4)


def wave(period: float) -> torch.Tensor:
    x = torch.arange(96.0)
    return (0.5 + 0.4 * torch.sin(2 * math.pi * x / period)).expand(1, 3, 96, 96)


def test_the_high_frequency_share_tells_what_lr_cannot_hold() -> None:
    assert analysis.high_frequency_share(wave(24)) < 0.01
    assert analysis.high_frequency_share(wave(4)) > 0.99
    assert analysis.high_frequency_share(torch.full((1, 3, 32, 32), 0.5)) == 0


def test_gradient_variance_is_high_where_edges_and_flat_parts_meet() -> None:
    picture = torch.zeros(1, 3, 50, 50)
    picture[..., 25:, :] = 1.0
    variances = analysis.gradient_variance_map(picture)
    assert variances.shape == (3, 3)
    assert int(variances.sum(1).argmax()) == 1
    assert float(variances[0].max()) == 0
    assert analysis.patch_energy(picture).shape == (3, 3)


@given(st.floats(0, 179), st.floats(10, 20))
def test_the_direction_of_a_grating_is_found(angle: float, period: float) -> None:
    hr = analysis.to_tensor(analysis.grating(angle, period, 96))
    found, weight = analysis.edge_angles(hr[None].float() / 255)
    difference = analysis.turned(found, torch.tensor(angle, dtype=torch.float64))
    assert float((difference * weight).sum() / weight.sum()) < 2.5


def test_turns_are_at_most_a_right_angle() -> None:
    a = torch.tensor([1.0, 179.0, 45.0])
    b = torch.tensor([179.0, 1.0, 135.0])
    assert analysis.turned(a, b).tolist() == [2.0, 2.0, 90.0]


def test_bicubic_keeps_a_coarse_grating_and_turns_an_aliased_one() -> None:
    coarse = analysis.grating_turns(bicubic_enlarge, 16, [30.0])[0]
    aliased = analysis.grating_turns(bicubic_enlarge, 6, [30.0])[0]
    assert coarse < 2
    assert aliased > 10


def test_correlation_is_pearson_s() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert analysis.correlation(a, 2 * a + 1) == pytest.approx(1)
    assert analysis.correlation(a, -a) == pytest.approx(-1)
    assert analysis.correlation(a, torch.ones(2, 2)) == 0


def test_tiles_are_aligned_cuts_of_the_enlarged_picture(pictures: PictureSet) -> None:
    pair = pictures.validation[0]
    crops = tiles(pair, {"bicubic": bicubic_enlarge}, side=16)
    assert len(crops) == 9
    whole = bicubic_enlarge(pair.lr)
    assert torch.equal(crops[4].enlarged["bicubic"], whole[:, 64:128, 64:128])
    assert torch.equal(crops[4].hr, pair.hr[:, 64:128, 64:128])
    same = Pair(pair.name, whole, pair.lr)
    assert tiles(same, {"bicubic": bicubic_enlarge})[0].psnr_y_db("bicubic") == 100
