"""RAdam or SOAP inside Lookahead ("Ranger") and a moving average of the slow weights.

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
from trainer.soap import Soap

BY_MODE = tuple(f"{name}{mode}" for name in ("moment", "basis") for mode in range(3))
STATE_KEYS = ("step", "exp_avg", "exp_avg_sq", *BY_MODE)


def learning_rate(step: int, iterations: int, config: OptimiserConfig) -> float:
    """Learning rate of iteration ``step`` (from 0): linear warm-up times one cosine."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_iterations))
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / iterations))
    span = config.learning_rate - config.final_learning_rate
    return warmup * (config.final_learning_rate + span * cosine)


class Ranger:
    """A fast optimiser in Lookahead, with state that can be saved and restored exactly.

    Args:
        parameters: leaf tensors; their order must be the same when restoring.
        config: which optimiser; ``lookahead_steps`` 0 is that one alone.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> None:
        self.config = config
        self.parameters = [p for p in parameters if p.requires_grad]
        fast = Soap if config.method == "soap" else torch.optim.RAdam
        self.fast = fast(self.parameters, lr=config.learning_rate, betas=config.betas)
        self.slow = [p.detach().clone() for p in self.parameters]
        self.steps = 0

    def zero_grad(self) -> None:
        """Forgets the gradients of the last step."""
        self.fast.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One fast step at learning rate ``rate`` and, every k-th time, a slow one."""
        self._begin_step(rate)
        self.fast.step()
        if not self.config.lookahead_steps:
            self._follow()
        elif self.steps % self.config.lookahead_steps == 0:
            for slow, fast in zip(self.slow, self.parameters, strict=True):
                slow.lerp_(fast, self.config.lookahead_alpha)
                fast.copy_(slow)

    def _begin_step(self, rate: float) -> None:
        for group in self.fast.param_groups:
            group["lr"] = rate
        self.steps += 1

    def _follow(self) -> None:
        torch._foreach_copy_(self.slow, list[Tensor](self.parameters))

    def soap_to_capture(self) -> Soap | None:
        """The optimiser, where a CUDA graph can hold its next step: SOAP alone, after its first."""
        soap = self.fast if isinstance(self.fast, Soap) else None
        return soap if soap and soap.begun and not self.config.lookahead_steps else None

    def advance(self, soap: Soap, rate: float) -> float:
        """Begins a captured step at learning rate ``rate``; returns the factor for :meth:`update`.

        After the update comes ``soap.turn()``.
        """
        self._begin_step(rate)
        return soap.advance()

    @torch.no_grad()
    def update(self, soap: Soap, factor: Tensor) -> None:
        """What a CUDA graph holds of a step."""
        soap.update(factor)
        self._follow()

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
            for key in STATE_KEYS:
                if key in state:
                    out[f"{key}.{index}"] = torch.as_tensor(state[key])
        return out

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Takes back what :meth:`tensors` gave after ``steps`` steps."""
        self.steps = steps
        for index, parameter in enumerate(self.parameters):
            self.slow[index].copy_(tensors[f"slow.{index}"])
            state = {
                key: tensors[f"{key}.{index}"] for key in STATE_KEYS if f"{key}.{index}" in tensors
            }
            if state:
                # The count stays where RAdam keeps it; the rest lies beside its parameter.
                self.fast.state[parameter] = {
                    key: value.clone().cpu() if key == "step" else value.to(parameter, copy=True)
                    for key, value in state.items()
                }
        if isinstance(self.fast, Soap):
            self.fast.restack()


class MovingAverage:
    """Exponential moving average of a list of tensors; its decay grows over the first steps."""

    def __init__(self, tensors: list[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [t.detach().clone() for t in tensors]

    def share(self, step: int) -> float:
        """How far the average goes towards the weights of iteration ``step`` (from 0)."""
        return 1.0 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, tensors: list[Tensor], share: float | Tensor) -> None:
        """Moves ``share`` of the way to ``tensors``: a number, or a 0-d tensor on their device."""
        steps = torch._foreach_sub(tensors, self.values)
        torch._foreach_mul_(steps, share)
        torch._foreach_add_(self.values, steps)
