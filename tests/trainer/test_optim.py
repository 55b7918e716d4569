"""Ranger against plain RAdam, and the slow weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer.config import Method, OptimiserConfig
from trainer.optim import MovingAverage, Ranger, learning_rate


def trajectory(config: OptimiserConfig, steps: int, peek: bool = False) -> list[Tensor]:
    """The weights after each step on a small convex problem."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(5, 3, generator=generator))
    target = torch.randn(5, 3, generator=generator)
    optimiser, seen = Ranger([weight], config), []
    for _ in range(steps):
        optimiser.zero_grad()
        (weight - target).square().sum().backward()
        optimiser.step(0.05)
        if peek:
            with optimiser.weights():
                assert torch.equal(weight, optimiser.slow[0])
        seen.append(weight.detach().clone())
    return seen


def test_alpha_one_equals_plain_radam() -> None:
    ranger = trajectory(OptimiserConfig(lookahead_alpha=1.0), 17)
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(5, 3, generator=generator))
    target = torch.randn(5, 3, generator=generator)
    radam = torch.optim.RAdam([weight], 0.05, betas=(0.9, 0.99))
    for expected in ranger:
        radam.zero_grad()
        (weight - target).square().sum().backward()
        radam.step()
        torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=1e-6)


def test_every_kth_step_goes_alpha_of_the_way_from_the_slow_weights() -> None:
    start = trajectory(OptimiserConfig(lookahead_steps=0), 1)[0]
    plain = trajectory(OptimiserConfig(lookahead_steps=0), 5)
    ahead = trajectory(OptimiserConfig(lookahead_steps=5, lookahead_alpha=0.8), 5)
    generator = torch.Generator().manual_seed(0)
    initial = torch.randn(5, 3, generator=generator)
    torch.testing.assert_close(ahead[3], plain[3])
    torch.testing.assert_close(ahead[4], initial.lerp(plain[4], 0.8))
    assert not torch.equal(start, initial)


def test_looking_at_the_slow_weights_leaves_training_unchanged() -> None:
    config = OptimiserConfig()
    for a, b in zip(trajectory(config, 12), trajectory(config, 12, peek=True), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["radam", "soap"])
@pytest.mark.parametrize("stop", [3, 5, 8, 12])
def test_restoring_goes_on_exactly(stop: int, method: Method) -> None:
    config = OptimiserConfig(method=method)
    expected = trajectory(config, 14)[-1]
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(5, 3, generator=generator))
    target = torch.randn(5, 3, generator=generator)
    optimiser = Ranger([weight], config)
    for step in range(14):
        if step == stop:
            weight = nn.Parameter(weight.detach().clone())
            other = Ranger([weight], config)
            other.restore(optimiser.tensors(), optimiser.steps)
            optimiser = other
        optimiser.zero_grad()
        (weight - target).square().sum().backward()
        optimiser.step(0.05)
    assert torch.equal(weight, expected)


def test_the_learning_rate_warms_up_and_falls_along_one_cosine() -> None:
    config = OptimiserConfig(learning_rate=1.0, final_learning_rate=0.0, warmup_iterations=10)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == rates[9]
    assert rates[50] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_the_average_follows_fast_at_first_and_slowly_later() -> None:
    average = MovingAverage([torch.zeros(1)], 0.99)
    average.update([torch.ones(1)], average.share(0))
    assert float(average.values[0]) == pytest.approx(0.9)
    average.update([torch.zeros(1)], torch.tensor(average.share(10**6)))
    assert float(average.values[0]) == pytest.approx(0.9 * 0.99)


def test_the_parts_of_a_captured_step_do_what_a_step_does() -> None:
    config = OptimiserConfig(method="soap", lookahead_steps=0)
    weights = [nn.Parameter(torch.ones(4, 3, 3, 3)), nn.Parameter(torch.ones(4, 3, 3, 3))]
    whole, parts = (Ranger([weight], config) for weight in weights)
    generator = torch.Generator().manual_seed(0)
    for step in range(25):
        gradient = torch.randn(4, 3, 3, 3, generator=generator)
        for weight in weights:
            weight.grad = gradient.clone()
        rate = learning_rate(step, 25, config)
        whole.step(rate)
        soap = parts.soap_to_capture()
        if soap is None:
            parts.step(rate)
            continue
        parts.update(soap, torch.tensor(parts.advance(soap, rate)))
        soap.turn()
    assert parts.steps == whole.steps
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.slow[0], weights[1].detach())
    for other in (OptimiserConfig(), OptimiserConfig(method="soap", lookahead_steps=5)):
        optimiser = Ranger([nn.Parameter(torch.ones(2))], other)
        optimiser.parameters[0].grad = torch.ones(2)
        optimiser.step(0.1)
        assert optimiser.soap_to_capture() is None
