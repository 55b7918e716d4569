"""The trainer whose steps are CUDA graphs (``--capture``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.captured import CapturedSteps, GraphInputs, check_capturable
from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.device import Share
from trainer.distill import Teacher
from trainer.soap import Soap
from trainer.training import Trainer, step_generator

LOOK_EVERY = 20
"""Steps between two looks at the loss: each look waits for the GPU."""


def trainer_for(
    config: FitConfig,
    pictures: PictureSet,
    device: torch.device,
    share: Share | None = None,
    teacher: Teacher | None = None,
) -> Trainer:
    """The trainer that ``config.capture`` asks for; arguments as of :class:`Trainer`."""
    kind = CapturedTrainer if config.capture else Trainer
    return kind(config, pictures, device, share, teacher)


class CapturedTrainer(Trainer):
    """A :class:`Trainer` of the same batches and the same results, within rounding.

    Raises:
        TrainerError: the device is no GPU, or the run holds what a graph cannot.
    """

    def __init__(
        self,
        config: FitConfig,
        pictures: PictureSet,
        device: torch.device,
        share: Share | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        check_capturable(config, device, share.count if share else 1)
        super().__init__(config, pictures, device, share, teacher)
        inputs = GraphInputs(self.pictures, config, device)
        self.captured = CapturedSteps(self.network, inputs)
        self._factors = torch.zeros(2, device=device)
        self._last_loss = math.nan

    def train_step(self) -> float:
        """One step; returns the loss as it was read last, which is now and then.

        Raises:
            DivergedError: the loss that was read is not finite.
        """
        stage, soap = self.config.stage_at(self.step), self.optimiser.soap_to_capture()
        self.captured.draw(step_generator(self.config.seed, self.step))
        if soap is None:
            loss = self.captured.run(f"passes {stage}", self.loss_of)
            self.clip()
            self.optimise()
        else:
            factor = self.optimiser.advance(soap, self.learning_rate())
            numbers = torch.tensor([factor, self.average.share(self.step)])
            self._factors.copy_(numbers, non_blocking=True)
            loss = self.captured.run(f"step {stage}", self.loss_of, lambda: self._afterwards(soap))
            soap.turn()
        self.step += 1
        self._look_at(loss)
        return self._last_loss

    def _afterwards(self, soap: Soap) -> None:
        """What follows the backward pass, with ``_factors`` in the place of numbers."""
        self.clip()
        self.optimiser.update(soap, self._factors[0])
        self.average.update(self.optimiser.slow, self._factors[1])

    def _look_at(self, loss: Tensor) -> None:
        config = self.config
        moments = LOOK_EVERY, config.checkpoint_every, config.evaluate_every
        if self.step < config.iterations and all(self.step % every for every in moments):
            return
        # A gradient that is not finite spoils the weights, and so every loss after it.
        self._last_loss = float(loss)
        if not math.isfinite(self._last_loss):
            assert self.captured.batch is not None
            raise self.diverged(self._last_loss, *self.captured.batch)
