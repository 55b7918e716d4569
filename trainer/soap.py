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


def modes(stack: Tensor) -> Tensor:
    """What is preconditioned of a stack: (S, cout, cin, kh * kw) of kernels, others unchanged."""
    return stack.flatten(3) if stack.ndim > 3 else stack


def rotate(tensor: Tensor, bases: list[Tensor], back: bool = False) -> Tensor:
    """Every mode of a stack (S, n0, n1 ...) in its basis (S, n, n), or back from it; same shape."""
    for basis in bases:
        stack, length, *rest = tensor.shape
        columns = tensor.reshape(stack, length, -1).mT
        # The product puts the new mode last, so that after all of them the order is the old one.
        tensor = (columns @ (basis.mT if back else basis)).reshape(stack, *rest, length)
    return tensor


class Soap(torch.optim.Optimizer):
    """SOAP over ``parameters``; a parameter's first step only measures its basis.

    Parameters of one shape are computed as one stack: on a GPU a step is a hundred operations
    rather than a thousand. ``state`` holds views of the stacks, by parameter.

    Args:
        parameters: leaf tensors, in the order in which states are restored.
        lr: learning rate; the caller changes it in ``param_groups``.
        betas: decay of the first moment, and of the second moments and the modes' averages.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for parameter in self.param_groups[0]["params"]:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        self._stacks = [_Stack(parameters) for parameters in by_shape.values()]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # the base class wants this signature
        """One step from the gradients at hand; ``closure`` is not used.

        Parameters without a gradient stay as they are, with all others of their shape.
        """
        group = self.param_groups[0]
        for stack in self._stacks:
            gradients = [p.grad for p in stack.parameters if p.grad is not None]
            if len(gradients) < len(stack.parameters):
                continue
            gradient = modes(torch.stack(gradients))
            if stack.state:
                stack.update(gradient, group["lr"], group["betas"])
            else:
                stack.begin(gradient)
                self._show(stack)

    @torch.no_grad()
    def restack(self) -> None:
        """Takes over what ``state`` holds by parameter, after somebody restored it."""
        for stack in self._stacks:
            states = [self.state[p] for p in stack.parameters if self.state.get(p)]
            stack.state = {}
            if len(states) == len(stack.parameters):
                stack.state = {key: torch.stack([s[key] for s in states]) for key in states[0]}
                stack.state["step"] = states[0]["step"]
                self._show(stack)

    def _show(self, stack: _Stack) -> None:
        for index, parameter in enumerate(stack.parameters):
            self.state[parameter] = {
                key: value if key == "step" else value[index] for key, value in stack.state.items()
            }


class _Stack:
    """Parameters of one shape, and their moments as tensors that are changed in place."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.state: dict[str, Tensor] = {}

    def begin(self, gradient: Tensor) -> None:
        """Measures the first bases; ``gradient`` is (S, n0, n1 ...)."""
        self.state = {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(gradient),
            "exp_avg_sq": torch.zeros_like(gradient),
        }
        if gradient.ndim > 2:
            for mode in range(gradient.ndim - 1):
                moment = outer(gradient, mode)
                self.state[f"moment{mode}"] = moment
                self.state[f"basis{mode}"] = torch.linalg.eigh(moment)[1].contiguous()

    def update(self, gradient: Tensor, rate: float, betas: tuple[float, float]) -> None:
        """One step of every parameter of the stack."""
        state, bases = self.state, named(self.state, "basis")
        state["step"] += 1
        step = int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - betas[0])
        rotated = rotate(gradient, bases)
        state["exp_avg_sq"].mul_(betas[1]).addcmul_(rotated, rotated, value=1 - betas[1])
        scale = (1 - betas[1] ** step) ** 0.5 / (1 - betas[0] ** step)
        root = state["exp_avg_sq"].sqrt()
        noise = NOISE * root.mean(dim=tuple(range(1, root.ndim)), keepdim=True)
        change = rotate(state["exp_avg"], bases) / (root + noise + TINY)
        changes = rotate(change, bases, back=True).unbind()
        shaped = [c.view_as(p) for c, p in zip(changes, self.parameters, strict=True)]
        torch._foreach_add_(self.parameters, shaped, alpha=-rate * scale)
        self.learn(gradient, betas[1], turn=step % BASIS_EVERY == 0)

    def learn(self, gradient: Tensor, beta: float, turn: bool) -> None:
        """Takes ``gradient`` into the modes' averages and, at times, turns the bases."""
        moments, bases = named(self.state, "moment"), named(self.state, "basis")
        for mode, (moment, basis) in enumerate(zip(moments, bases, strict=True)):
            moment.lerp_(outer(gradient, mode), 1 - beta)
            if turn:
                towards = moment @ basis
                # The second moments move with their eigenvectors when those change rank.
                order = (basis * towards).sum(1).argsort(dim=1, descending=True)
                squares = self.state["exp_avg_sq"]
                along = [len(order), *(1 for _ in squares.shape[1:])]
                along[mode + 1] = -1
                squares.copy_(squares.take_along_dim(order.view(along), mode + 1))
                towards = towards.take_along_dim(order[:, None], 2)
                basis.copy_(torch.linalg.qr(towards)[0])


def outer(gradient: Tensor, mode: int) -> Tensor:
    """(S, n, n): second moments of each gradient along ``mode``, summed over the others."""
    rows = gradient.movedim(mode + 1, 1).flatten(2)
    return rows @ rows.mT


def named(state: dict[str, Any], prefix: str) -> list[Tensor]:
    """The state tensors ``prefix0``, ``prefix1`` ... in order."""
    found: list[Tensor] = []
    while f"{prefix}{len(found)}" in state:
        found.append(state[f"{prefix}{len(found)}"])
    return found
