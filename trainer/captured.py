"""Crops, forward and backward pass of a step as one CUDA graph, for small networks on a GPU.

A step of these networks is a few hundred kernels of microseconds each; started one by one from
Python they would take longer than they run. The host draws the random numbers, as it does for any
step, copies them and the rate in, and replays. SOAP's update and the average are in the graph too;
its turn of the bases, every tenth step, and other optimisers stay outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.atlas import Atlas
from trainer.config import AugmentConfig, FitConfig
from trainer.data import PictureSet
from trainer.errors import TrainerError
from trainer.sampling import Cropping, draw

Batch = tuple[Tensor, Tensor]
LossOf = Callable[[Tensor, Tensor], Tensor]
WARM_UP = 3


def check_capturable(config: FitConfig, device: torch.device, processes: int = 1) -> None:
    """Raises TrainerError when a step of ``config`` cannot be one CUDA graph."""
    others = [
        name
        for name in AugmentConfig.__slots__
        if getattr(config.augment, name) and (name != "dihedral" or config.augment.dihedral < 1)
    ]
    obstacles = {
        f"--device {device.type}": device.type != "cuda",
        f"--augment.{others[0] if others else ''}": bool(others),
        "--degradation video": config.degradation == "video",
        "--teacher": config.teacher is not None,
        "--precision fp16": config.precision == "fp16",
        "--compile": config.compile,
        "several processes": processes > 1,
    }
    found = [flag for flag, there in obstacles.items() if there]
    if found:
        raise TrainerError(
            f"--capture makes one CUDA graph of a step, which does not go with {found[0]}; "
            "leave one of them out"
        )


class GraphInputs:
    """The batch of a step, from random numbers in fixed places on the device.

    The batch is the one that ``trainer.training`` makes without a graph from the same generator.
    """

    def __init__(self, pictures: PictureSet, config: FitConfig, device: torch.device) -> None:
        self._atlas = Atlas(pictures.train)
        self._count = len(pictures.train)
        self._cropping = Cropping(config.batch, config.patch, config.crop_candidates)
        self._moving = config.augment.dihedral == 1.0
        # Parts of a batch share a move, as in trainer.augment.
        parts = torch.arange(config.batch).tensor_split(8)
        self._part_of = torch.cat([torch.full_like(p, i) for i, p in enumerate(parts)]).to(device)
        draws = draw(self._count, self._cropping, torch.Generator())
        self._draws = torch.zeros_like(draws, device=device)
        self._first_move = torch.zeros((), dtype=torch.int64, device=device)

    def draw(self, generator: torch.Generator) -> None:
        """Copies the random numbers of a step in."""
        # The driver stages these few bytes at once; a blocking copy would wait for the last step.
        self._draws.copy_(draw(self._count, self._cropping, generator), non_blocking=True)
        if self._moving:
            first = torch.randint(8, (), generator=generator)
            self._first_move.copy_(first, non_blocking=True)

    def batch(self) -> Batch:
        """LR and HR in [0, 1], float32, channels_last, from what was drawn last."""
        moves = torch.zeros_like(self._part_of)
        if self._moving:
            moves = (self._part_of + self._first_move) % 8
        lr, hr = self._atlas.batch(self._draws, moves, self._cropping)
        return lr.float() / 255.0, hr.float() / 255.0


@dataclass(frozen=True, slots=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    loss: Tensor
    batch: Batch
    gradients: list[Tensor]


class CapturedSteps:
    """Forward and backward passes of ``network``, perhaps with what follows, as graphs by name."""

    def __init__(self, network: nn.Module, inputs: GraphInputs) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._inputs = inputs
        self._graphs: dict[str, _Graph] = {}
        self.batch: Batch | None = None

    def draw(self, generator: torch.Generator) -> None:
        """The random numbers of the next step."""
        self._inputs.draw(generator)

    def run(
        self, name: str, loss_of: LossOf, afterwards: Callable[[], object] | None = None
    ) -> Tensor:
        """The loss (0-d, on the device, overwritten by the next step); sets the gradients.

        Args:
            name: of the graph, which is captured when it is wanted first.
            loss_of: of the LR and HR crops, in [0, 1].
            afterwards: is captured too, with the gradients in their places.
        """
        if name not in self._graphs:
            self._graphs[name] = self._capture(loss_of, afterwards)
        there = self._graphs[name]
        there.graph.replay()
        for parameter, gradient in zip(self._parameters, there.gradients, strict=True):
            parameter.grad = gradient
        self.batch = there.batch
        return there.loss

    def _pass(self, loss_of: LossOf) -> tuple[Tensor, Batch]:
        for parameter in self._parameters:
            parameter.grad = None
        batch = self._inputs.batch()
        loss = loss_of(*batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), batch

    def _capture(self, loss_of: LossOf, afterwards: Callable[[], object] | None) -> _Graph:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):  # cuDNN chooses its kernels
                self._pass(loss_of)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss, batch = self._pass(loss_of)
            if afterwards is not None:
                afterwards()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return _Graph(graph, loss, batch, gradients)
