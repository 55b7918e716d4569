"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024).

A convolution's kernel (cout, cin, 3, 3) is seen as a tensor with the modes cout, cin and 9. Each
mode keeps the average of its gradients' second moments, and every ``BASIS_EVERY`` steps one
QR step of power iteration turns its basis towards their eigenvectors. Adam's second moments live
in that basis; biases and gains get plain Adam. At the widths of this network the extra work is
a few per cent of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

TINY = 1e-20
NOISE = 1e-5
"""Directions in which the gradient is smaller than this part of its mean are rounding noise."""
BASIS_EVERY = 10


def modes(tensor: Tensor) -> Tensor:
    """The view that is preconditioned: (cout, cin, kh * kw) of a kernel, others as they are."""
    return tensor.flatten(2) if tensor.ndim > 2 else tensor


def rotate(tensor: Tensor, bases: list[Tensor], back: bool = False) -> Tensor:
    """Every mode of ``tensor`` expressed in its basis (columns), or back from it; same shape."""
    for basis in bases:
        # tensordot puts the new mode last, so that after all of them the order is the old one.
        tensor = torch.tensordot(tensor, basis, ([0], [1 if back else 0]))
    return tensor


class Soap(torch.optim.Optimizer):
    """SOAP over ``parameters``; a parameter's first step only measures its basis.

    Args:
        parameters: leaf tensors, in the order in which states are restored.
        lr: learning rate; the caller changes it in ``param_groups``.
        betas: decay of the first moment, and of the second moments and the modes' averages.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # the base class wants this signature
        """One step from the gradients at hand; ``closure`` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["betas"])

    def _update(
        self, parameter: Tensor, grad: Tensor, rate: float, betas: tuple[float, float]
    ) -> None:
        state, gradient = self.state[parameter], modes(grad)
        if not state:
            self._begin(state, gradient)
            return
        state["step"] += 1
        step = int(state["step"])
        bases = named(state, "basis")
        state["exp_avg"].lerp_(gradient, 1 - betas[0])
        rotated = rotate(gradient, bases)
        state["exp_avg_sq"].mul_(betas[1]).addcmul_(rotated, rotated, value=1 - betas[1])
        scale = (1 - betas[1] ** step) ** 0.5 / (1 - betas[0] ** step)
        root = state["exp_avg_sq"].sqrt()
        change = rotate(state["exp_avg"], bases) / (root + NOISE * root.mean() + TINY)
        parameter.sub_(rotate(change, bases, back=True).view_as(parameter), alpha=rate * scale)
        self._learn(state, gradient, betas[1], turn=step % BASIS_EVERY == 0)

    def _begin(self, state: dict[str, Any], gradient: Tensor) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(gradient)
        state["exp_avg_sq"] = torch.zeros_like(gradient)
        if gradient.ndim > 1:
            for mode in range(gradient.ndim):
                moment = outer(gradient, mode)
                state[f"moment{mode}"] = moment
                state[f"basis{mode}"] = torch.linalg.eigh(moment)[1].contiguous()

    def _learn(self, state: dict[str, Any], gradient: Tensor, beta: float, turn: bool) -> None:
        """Takes ``gradient`` into the modes' averages and, at times, turns the bases."""
        for mode, (moment, basis) in enumerate(
            zip(named(state, "moment"), named(state, "basis"), strict=True)
        ):
            moment.lerp_(outer(gradient, mode), 1 - beta)
            if turn:
                towards = moment @ basis
                # The second moments move with their eigenvectors when those change rank.
                order = (basis * towards).sum(0).argsort(descending=True)
                state["exp_avg_sq"] = state["exp_avg_sq"].index_select(mode, order)
                state[f"basis{mode}"] = torch.linalg.qr(towards[:, order])[0].contiguous()


def outer(gradient: Tensor, mode: int) -> Tensor:
    """(n, n): second moments of ``gradient`` along ``mode``, summed over the others."""
    rows = gradient.movedim(mode, 0).flatten(1)
    return rows @ rows.T


def named(state: dict[str, Any], prefix: str) -> list[Tensor]:
    """The state tensors ``prefix0``, ``prefix1`` ... in order."""
    found: list[Tensor] = []
    while f"{prefix}{len(found)}" in state:
        found.append(state[f"{prefix}{len(found)}"])
    return found
