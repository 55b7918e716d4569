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
    """SOAP over ``parameters``, which all have a gradient; the first step only measures the bases.

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
        self._count = torch.zeros((), dtype=torch.float32)

    @property
    def begun(self) -> bool:
        """Whether the first step, which makes all of the state, was taken."""
        return bool(self._stacks[0].state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # the base class wants this signature
        """One step from the gradients at hand; ``closure`` is not used."""
        if self.begun:
            self.update(self.advance())
            self.turn()
            return
        for stack in self._stacks:
            stack.begin()
        self._show()

    def advance(self) -> float:
        """Counts a step; returns what the change of its :meth:`update` is multiplied by."""
        rate, betas = self.param_groups[0]["lr"], self.param_groups[0]["betas"]
        self._count += 1
        step = int(self._count)
        return float(rate * (1 - betas[1] ** step) ** 0.5 / (1 - betas[0] ** step))

    @torch.no_grad()
    def update(self, factor: float | Tensor) -> None:
        """Moments and parameters: the part of a step that a CUDA graph can hold.

        Args:
            factor: from :meth:`advance`, perhaps as a 0-d tensor on the device.
        """
        for stack in self._stacks:
            stack.update(factor, self.param_groups[0]["betas"])

    @torch.no_grad()
    def turn(self) -> None:
        """Turns the bases when it is time: the rest of a step."""
        if int(self._count) % BASIS_EVERY == 0:
            for stack in self._stacks:
                stack.turn()

    @torch.no_grad()
    def restack(self) -> None:
        """Takes over what ``state`` holds by parameter, after somebody restored it."""
        for stack in self._stacks:
            states = [self.state[p] for p in stack.parameters if self.state.get(p)]
            if states:
                self._count = states[0]["step"]
                keys = [key for key in states[0] if key != "step"]
                stack.state = {key: torch.stack([s[key] for s in states]) for key in keys}
        self._show()

    def _show(self) -> None:
        for stack in self._stacks:
            for index, parameter in enumerate(stack.parameters):
                views = {key: value[index] for key, value in stack.state.items()}
                self.state[parameter] = {"step": self._count, **views} if views else {}


class _Stack:
    """Parameters of one shape, and their moments as tensors that are changed in place."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.state: dict[str, Tensor] = {}

    def gradient(self) -> Tensor:
        """(S, n0, n1 ...): the gradients at hand."""
        return modes(torch.stack([p.grad for p in self.parameters if p.grad is not None]))

    def begin(self) -> None:
        """Measures the first bases."""
        gradient = self.gradient()
        # Contiguous, as they are when restored: in another order sums are rounded otherwise.
        zeros = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        self.state = {"exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        if gradient.ndim > 2:
            for mode in range(gradient.ndim - 1):
                moment = outer(gradient, mode)
                self.state[f"moment{mode}"] = moment
                self.state[f"basis{mode}"] = torch.linalg.eigh(moment)[1].contiguous()

    def update(self, factor: float | Tensor, betas: tuple[float, float]) -> None:
        """Takes the gradients into the moments and moves every parameter of the stack."""
        state, gradient, bases = self.state, self.gradient(), named(self.state, "basis")
        state["exp_avg"].lerp_(gradient, 1 - betas[0])
        rotated = rotate(gradient, bases)
        state["exp_avg_sq"].mul_(betas[1]).addcmul_(rotated, rotated, value=1 - betas[1])
        root = state["exp_avg_sq"].sqrt()
        noise = NOISE * root.mean(dim=tuple(range(1, root.ndim)), keepdim=True)
        change = rotate(state["exp_avg"], bases) / (root + noise + TINY)
        changes = (rotate(change, bases, back=True) * factor).unbind()
        shaped = [c.view_as(p) for c, p in zip(changes, self.parameters, strict=True)]
        torch._foreach_sub_(self.parameters, shaped)
        for mode, moment in enumerate(named(state, "moment")):
            moment.lerp_(outer(gradient, mode), 1 - betas[1])

    def turn(self) -> None:
        """One QR step of power iteration for every basis."""
        moments, bases = named(self.state, "moment"), named(self.state, "basis")
        for mode, (moment, basis) in enumerate(zip(moments, bases, strict=True)):
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
