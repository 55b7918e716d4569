"""SOAP against Adam where they must agree, and where it must win."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.soap import Soap, named, rotate


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9))
def test_turning_into_a_basis_and_back_changes_nothing(a: int, b: int, c: int) -> None:
    generator = torch.Generator().manual_seed(a * 100 + b * 10 + c)
    x = torch.randn(2, a, b, c, generator=generator)
    bases = [torch.linalg.qr(torch.randn(2, n, n, generator=generator))[0] for n in x.shape[1:]]
    there = rotate(x, bases)
    assert there.shape == x.shape
    torch.testing.assert_close(there.norm(), x.norm())
    torch.testing.assert_close(rotate(there, bases, back=True), x)
    expected = torch.einsum("sijk,sia,sjb,skc->sabc", x, *bases)
    torch.testing.assert_close(there, expected)


def test_a_bias_gets_plain_adam_from_its_second_step_on() -> None:
    bias, twin = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    soap = Soap([bias], 0.01, (0.9, 0.99))
    adam = torch.optim.Adam([twin], 0.01, betas=(0.9, 0.99))
    for step in range(20):
        for weight, optimiser in ((bias, soap), (twin, adam)):
            weight.grad = 2 * weight.detach() + step
            if step or optimiser is soap:
                optimiser.step()
        if step == 0:
            assert torch.equal(bias, twin), "the first step only looks"
        torch.testing.assert_close(bias, twin, atol=1e-5, rtol=1e-5)


def test_the_bases_stay_orthonormal_and_find_the_main_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator))
    direction = torch.randn(4, generator=generator)
    direction /= direction.norm()
    optimiser = Soap([weight], 1e-3, (0.9, 0.9))
    for _ in range(60):
        noise = torch.randn(4, 3, 3, 3, generator=generator) * 0.1
        along = torch.randn(1, 3, 3, 3, generator=generator) * direction[:, None, None, None]
        weight.grad = along + noise
        optimiser.step()
    bases = named(optimiser.state[weight], "basis")
    assert [len(b) for b in bases] == [4, 3, 9]
    for basis in bases:
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)), atol=1e-5, rtol=0)
    assert abs(float(bases[0][:, 0] @ direction)) > 0.98


def skewed_loss(weight: Tensor, skew: Tensor) -> Tensor:
    """A quadratic whose steep directions lie across the coordinates."""
    return torch.einsum("ab,bij->aij", skew, weight.flatten(2)).square().sum()


def test_on_a_skewed_valley_it_gets_further_than_radam() -> None:
    generator = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    skew = torch.diag(torch.logspace(0, 2, 8)) @ turn
    start = torch.randn(8, 4, 3, 3, generator=generator)
    reached = {}
    for name in ("soap", "radam"):
        weight = nn.Parameter(start.clone())
        optimiser: torch.optim.Optimizer = (
            Soap([weight], 0.02, (0.9, 0.95))
            if name == "soap"
            else torch.optim.RAdam([weight], 0.02, betas=(0.9, 0.95))
        )
        for _ in range(150):
            optimiser.zero_grad()
            loss = skewed_loss(weight, skew)
            loss.backward()
            optimiser.step()
        reached[name] = float(loss.detach())
    assert reached["soap"] < 0.5 * reached["radam"]


@pytest.mark.parametrize("shape", [(6,), (4, 3), (4, 3, 1, 1), (4, 3, 3, 3)])
def test_every_shape_of_the_network_goes_down_its_slope(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = nn.Parameter(torch.ones(shape))
    optimiser = Soap([weight], 0.1, (0.9, 0.9))
    for _ in range(12):
        weight.grad = 1 + torch.rand(shape, generator=generator)
        optimiser.step()
    assert weight.shape == shape
    assert float(weight.detach().mean()) < 0.9


def test_no_gradient_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(4, 3, 3, 3))
    optimiser = Soap([weight], 0.1, (0.9, 0.9))
    for _ in range(12):
        weight.grad = torch.zeros_like(weight)
        optimiser.step()
    assert bool((weight == 1).all())


def test_weights_of_one_shape_are_stacked_and_do_not_hear_of_each_other() -> None:
    def run(together: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        weights = [nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator)) for _ in range(3)]
        gradients = [torch.randn(3, 4, 3, 3, 3, generator=generator) for _ in range(25)]
        groups = [weights] if together else [[w] for w in weights]
        optimisers = [Soap(group, 0.01, (0.9, 0.9)) for group in groups]
        for row in gradients:
            for weight, gradient in zip(weights, row, strict=True):
                weight.grad = gradient.clone()
            for optimiser in optimisers:
                optimiser.step()
        return [w.detach() for w in weights]

    for alone, stacked in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(stacked, alone, atol=1e-3, rtol=1e-3)


def test_a_restored_state_lies_in_memory_as_it_did() -> None:
    """Sums over another layout are rounded otherwise: a resumed run would end elsewhere."""
    weights = [
        nn.Parameter(torch.randn(16, 8, 3, 3).contiguous(memory_format=torch.channels_last))
        for _ in range(2)
    ]
    soap = Soap(weights, 1e-3, (0.95, 0.95))

    def layout() -> list[tuple[int, ...]]:
        return [value.stride() for weight in weights for value in soap.state[weight].values()]

    for _ in range(2):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        soap.step()
    before = layout()
    soap.restack()
    assert layout() == before
