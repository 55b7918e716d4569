"""Losses: zero only at the target, differentiable, and what their definitions say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure

from trainer.errors import TrainerError
from trainer.losses import TERMS, gradient_variance, parse_loss, sobel_maps
from trainer.metrics import luma, mean_ssim, psnr, psnr_y, ssim, to_uint8


def pair(seed: int = 0, side: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator, dtype=a.dtype)).clamp(0, 1)


@pytest.mark.parametrize("name", TERMS)
def test_a_loss_is_least_at_the_target_and_falls_along_its_gradient(name: str) -> None:
    target, start = pair()
    output = start.clone().requires_grad_()
    loss = TERMS[name](output, target)
    loss.backward()
    assert output.grad is not None
    step = 1e-4 / float(output.grad.norm())
    after = float(TERMS[name](start - step * output.grad, target))
    assert after < float(loss.detach())
    assert float(TERMS[name](target, target)) < float(loss.detach())
    assert float(TERMS[name](target, target)) == pytest.approx(0, abs=1.1e-3)


@pytest.mark.parametrize("name", ["charbonnier", "mse", "ssim", "gv", "smooth-l1"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    target, output = pair(1, 18)
    target, output = target[:1], output[:1]
    direction = torch.randn(output.shape, dtype=output.dtype)
    variable = output.clone().requires_grad_()
    TERMS[name](variable, target).backward()
    assert variable.grad is not None
    by_gradient = float((variable.grad * direction).sum())
    h = 1e-6
    up, down = (float(TERMS[name](output + s * h * direction, target)) for s in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(by_gradient, rel=1e-3, abs=1e-7)


@given(st.lists(st.tuples(st.floats(0.001, 9), st.sampled_from(sorted(TERMS))), min_size=1,
                max_size=4))  # fmt: skip
def test_a_spec_is_the_weighted_sum_of_its_terms(parts: list[tuple[float, str]]) -> None:
    output, target = pair()
    spec = " + ".join(f"{weight}*{name}" for weight, name in parts)
    expected = sum(weight * float(TERMS[name](output, target)) for weight, name in parts)
    assert float(parse_loss(spec)(output, target)) == pytest.approx(expected)


@pytest.mark.parametrize("spec", ["l2", "", "x*l1", "l1+", "0.1*"])
def test_an_unknown_term_is_named_with_those_there_are(spec: str) -> None:
    with pytest.raises(TrainerError, match="is not WEIGHT\\*NAME with NAME one of l1, mse"):
        parse_loss(spec)


def test_sobel_maps_point_along_x_and_y() -> None:
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) / 8
    maps = sobel_maps(ramp)
    torch.testing.assert_close(maps[:, 0], torch.ones(1, 6, 6))
    torch.testing.assert_close(maps[:, 1], torch.zeros(1, 6, 6))
    torch.testing.assert_close(sobel_maps(ramp.transpose(2, 3))[:, 1], torch.ones(1, 6, 6))


def test_gradient_variance_is_of_patches_of_the_sobel_maps() -> None:
    output, target = pair(2, 34)

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        maps = sobel_maps(x)
        patches = maps.unfold(2, 16, 16).unfold(3, 16, 16)
        return patches.flatten(-2).var(dim=-1, unbiased=True)

    expected = (by_hand(output) - by_hand(target)).square().mean()
    torch.testing.assert_close(gradient_variance(output, target), expected)


def test_ssim_agrees_with_torchmetrics() -> None:
    a, b = pair(3, 32)
    other = structural_similarity_index_measure(
        a, b, sigma=1.5, kernel_size=11, data_range=1.0, gaussian_kernel=True
    )
    assert float(ssim(a, b).mean()) == pytest.approx(float(other), abs=2e-2)
    inner = structural_similarity_index_measure(
        a, b, sigma=1.5, kernel_size=11, data_range=1.0, return_full_image=True
    )[1][..., 5:-5, 5:-5]
    torch.testing.assert_close(ssim(a, b), inner, atol=1e-9, rtol=1e-9)


def test_psnr_and_luma_are_the_field_s() -> None:
    black, white = torch.zeros(1, 3, 12, 12), torch.full((1, 3, 12, 12), 255.0)
    assert float(luma(black).mean()) == 16.0
    assert float(luma(white).mean()) == pytest.approx(235.0)
    assert psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(black, black) == float("inf")
    spoilt = black.clone()
    spoilt[..., :4, :] = 255
    assert psnr_y(black.byte(), spoilt.byte()) == float("inf")
    assert to_uint8(torch.tensor([-1.0, 0.498, 2.0])).tolist() == [0, 127, 255]


def test_mean_ssim_is_one_for_equal_pictures_and_less_otherwise() -> None:
    a, b = pair(4, 24)
    assert mean_ssim(a * 255, a * 255) == pytest.approx(1)
    assert mean_ssim(a * 255, b * 255) < 0.99
