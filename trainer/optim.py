"""RAdam inside Lookahead ("Ranger") and a moving average of the slow weights.

Lookahead (Zhang et al. 2019): every k fast steps the slow weights go a fraction alpha of the way
to the fast ones, and the fast ones start again from there. Evaluation and checkpoints use the
slow weights; swapping them in and out leaves training unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimiserConfig


def learning_rate(step: int, iterations: int, config: OptimiserConfig) -> float:
    """Learning rate of iteration ``step`` (from 0): linear warm-up times one cosine."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_iterations))
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / iterations))
    span = config.learning_rate - config.final_learning_rate
    return warmup * (config.final_learning_rate + span * cosine)


class Ranger:
    """RAdam + Lookahead over ``parameters``, with state that can be saved and restored exactly.

    Args:
        parameters: leaf tensors; their order must be the same when restoring.
        config: ``lookahead_steps`` 0 is plain RAdam.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> None:
        self.config = config
        self.parameters = [p for p in parameters if p.requires_grad]
        self.fast = torch.optim.RAdam(self.parameters, config.learning_rate, betas=config.betas)
        self.slow = [p.detach().clone() for p in self.parameters]
        self.steps = 0

    def zero_grad(self) -> None:
        """Forgets the gradients of the last step."""
        self.fast.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One fast step at learning rate ``rate`` and, every k-th time, a slow one."""
        for group in self.fast.param_groups:
            group["lr"] = rate
        self.fast.step()
        self.steps += 1
        if not self.config.lookahead_steps:
            for slow, fast in zip(self.slow, self.parameters, strict=True):
                slow.copy_(fast)
        elif self.steps % self.config.lookahead_steps == 0:
            for slow, fast in zip(self.slow, self.parameters, strict=True):
                slow.lerp_(fast, self.config.lookahead_alpha)
                fast.copy_(slow)

    @contextmanager
    def weights(self, replacement: list[Tensor] | None = None) -> Iterator[None]:
        """Inside, the parameters hold ``replacement`` (default: the slow weights)."""
        chosen = self.slow if replacement is None else replacement
        kept = [p.detach().clone() for p in self.parameters]
        self._assign(chosen)
        try:
            yield
        finally:
            self._assign(kept)

    @torch.no_grad()
    def _assign(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the parameters themselves, by name, for a checkpoint."""
        out = {f"slow.{i}": t for i, t in enumerate(self.slow)}
        for index, parameter in enumerate(self.parameters):
            state: dict[str, Any] = self.fast.state.get(parameter, {})
            for key in ("exp_avg", "exp_avg_sq", "step"):
                if key in state:
                    out[f"{key}.{index}"] = torch.as_tensor(state[key])
        return out

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Takes back what :meth:`tensors` gave after ``steps`` steps."""
        self.steps = steps
        for index, parameter in enumerate(self.parameters):
            self.slow[index].copy_(tensors[f"slow.{index}"])
            if f"step.{index}" in tensors:
                self.fast.state[parameter] = {
                    "step": tensors[f"step.{index}"].clone().cpu(),
                    "exp_avg": tensors[f"exp_avg.{index}"].to(parameter, copy=True),
                    "exp_avg_sq": tensors[f"exp_avg_sq.{index}"].to(parameter, copy=True),
                }


class MovingAverage:
    """Exponential moving average of a list of tensors; its decay grows over the first steps."""

    def __init__(self, tensors: list[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [t.detach().clone() for t in tensors]

    @torch.no_grad()
    def update(self, tensors: list[Tensor], step: int) -> None:
        """Moves towards ``tensors``; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [t.detach() for t in tensors], 1.0 - decay)
