"""One run in memory: network, optimiser, average and data, one step, and its state on disk.

Every random choice of a step is drawn from (seed, step), so that a run resumed after kill -9
goes on exactly as if it had not been stopped, and several processes draw the same batch and each
take their share of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.network import Network
from trainer import checkpoint as ckpt
from trainer.augment import Augment, augment
from trainer.blocks import TrainingNetwork, fuse
from trainer.config import FitConfig, Recipe, differences
from trainer.data import Pair, PictureSet
from trainer.degrade import DegradedCopies, degraded_validation
from trainer.device import Share, autocast_type, place
from trainer.distill import Teacher, distillation
from trainer.ensemble_teacher import blended
from trainer.errors import CheckpointError, DivergedError, TrainerError
from trainer.losses import parse_loss
from trainer.metrics import psnr_y, to_uint8
from trainer.optim import MovingAverage, Ranger, learning_rate
from trainer.provenance import BEGINNING, source_digests
from trainer.sampling import Cropping, sample_batch
from trainer.start import start

CHECKPOINT = "checkpoint.safetensors"


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of every random choice of one iteration."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class Trainer:
    """Network, optimiser and average of one run, and how they are saved and restored.

    Args:
        config: the run.
        pictures: from ``trainer.data.load_folder``, moved to ``device`` when they fit.
        share: the part of each batch that this process computes.
        teacher: adds a distillation loss.
    """

    def __init__(
        self,
        config: FitConfig,
        pictures: PictureSet,
        device: torch.device,
        share: Share | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.config, self.device, self.teacher = config, device, teacher
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # crops have one size
        self.share = share or Share()
        if config.batch % self.share.count:
            raise TrainerError(
                f"--batch {config.batch} does not divide by {self.share.count} processes"
            )
        self.sources = source_digests(config)
        self.network = self.make_network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pictures = place(pictures, device)
        if config.ensemble_teacher is not None:
            taught = blended(self.pictures.train, config.ensemble_teacher, config.ensemble_share)
            self.pictures = replace(self.pictures, train=taught)
        self.copies: DegradedCopies | None = None
        if config.degradation == "video":
            held_out = degraded_validation(self.pictures.validation)
            self.pictures = replace(self.pictures, validation=held_out)
            self.copies = DegradedCopies(self.pictures.train, config.seed)
        self.forward = self.share.wrap(self.network)
        if config.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]
        self.optimiser = Ranger(self.network.parameters(), config.optimiser)
        self.average = MovingAverage(self.optimiser.slow, config.optimiser.ema_decay)
        self.losses = [parse_loss(spec) for spec in config.losses]
        self.amp = autocast_type(config, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16)
        self.step = 0
        self.history: list[dict[str, float]] = []

    def make_network(self) -> TrainingNetwork:
        """The network at the start of the run."""
        network = TrainingNetwork(self.config.network, self.config.block, self.config.seed)
        if self.config.start_from is not None:
            start(network, self.config.start_from)
        return network

    def recipe(self) -> Recipe:
        """What decides the result, with the sha256 of the files that are learnt from."""
        return self.config.recipe() | self.sources

    def augmentation(self) -> Augment:
        """What is done to every batch of crops; ablations replace it."""
        return lambda batch, generator: augment(batch, self.config.augment, generator)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """LR and HR crops of this iteration, float in [0, 1], this process's share."""
        config, generator = self.config, step_generator(self.config.seed, self.step)
        copies, step = self.copies, self.step
        lr_of = None if copies is None else lambda index: copies.at(index, step)
        cropping = Cropping(config.batch, config.patch, config.crop_candidates)
        batch = sample_batch(self.pictures.train, cropping, generator, lr_of)
        batch = batch[0].to(self.device), batch[1].to(self.device)
        batch = self.augmentation()(batch, generator)
        lr, hr = (self.share.of(x).float().div_(255.0) for x in batch)
        return lr.contiguous(memory_format=torch.channels_last), hr

    def loss_of(self, lr: Tensor, hr: Tensor) -> Tensor:
        """The loss of this iteration's stage on one batch."""
        with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
            output = self.forward(lr)
        output = output.float()
        loss = self.losses[self.config.stage_at(self.step)](output, hr)
        if self.teacher is not None:
            loss = loss + distillation(output, lr, self.teacher, self.config.teacher_weight)
        return loss

    def train_step(self) -> float:
        """One optimiser step; returns the loss. Raises DivergedError when it is not finite."""
        lr, hr = self.next_batch()
        loss = self.loss_of(lr, hr)
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser.fast)
        norm = self.clip()
        value = self.share.mean(loss.detach())
        finite = bool(torch.isfinite(norm))
        # In fp16 an overflow of the scaled gradients is ordinary: skip it, and scale by less.
        if value != value or value == float("inf") or not (finite or self.scaler.is_enabled()):
            raise self.diverged(value, lr, hr)
        if finite:
            self.optimise()
        if self.scaler.is_enabled():
            self.scaler.update()
        self.step += 1
        return value

    def clip(self) -> Tensor:
        """Scales the gradients down to the largest norm allowed; returns the norm before."""
        parameters, largest = self.optimiser.parameters, self.config.optimiser.gradient_clip
        return nn.utils.clip_grad_norm_(parameters, largest)

    def learning_rate(self) -> float:
        """Of this iteration."""
        return learning_rate(self.step, self.config.iterations, self.config.optimiser)

    def optimise(self) -> None:
        """One step of the optimiser and of the moving average, from the gradients at hand."""
        self.optimiser.step(self.learning_rate())
        self.average.update(self.optimiser.slow, self.average.share(self.step))

    def diverged(self, value: float, lr: Tensor, hr: Tensor) -> DivergedError:
        """The error that names the iteration, with the batch kept beside the checkpoint."""
        kept = self.config.out / "diverged.safetensors"
        ckpt.write_atomically({"lr": lr.cpu(), "hr": hr.cpu()}, {"step": str(self.step)}, kept)
        return DivergedError(
            f"the loss or its gradient is not finite at iteration {self.step} (loss {value}, "
            f"batch kept in {kept}); lower --optimiser.learning-rate",
            self.step,
        )

    def shipped_weights(self) -> list[Tensor]:
        """What is evaluated and shipped: the moving average, or the slow weights without one."""
        return self.average.values if self.config.optimiser.ema_decay else self.optimiser.slow

    def fused(self) -> Network:
        """The plain network of the weights that the training network holds now, on the CPU."""
        return fuse(self.network)

    def validate(self) -> float:
        """Mean PSNR-Y in dB over the validation pictures, in float32."""
        with self.optimiser.weights(self.shipped_weights()):
            plain = self.fused().to(self.device)
        return mean_psnr_y(plain, self.pictures.validation)

    @torch.no_grad()
    def sample(self) -> tuple[Tensor, Tensor]:
        """The middle of the first validation picture as it is now: output and HR, uint8."""
        pair = self.pictures.validation[0]
        with self.optimiser.weights(self.shipped_weights()):
            plain = self.fused().to(self.device)
        output = to_uint8(plain(pair.lr[None].to(self.device).float().div(255.0)))[0]
        return output.cpu(), pair.hr.cpu()

    def state(self) -> ckpt.Checkpoint:
        """Everything needed to go on exactly from here."""
        tensors = {f"net.{k}": v.detach() for k, v in self.network.named_parameters()}
        tensors |= self.optimiser.tensors()
        tensors |= {f"average.{i}": t for i, t in enumerate(self.average.values)}
        facts: dict[str, object] = {
            "step": self.step,
            "recipe": self.recipe(),
            "dataset_sha256": self.pictures.sha256,
            "history": self.history,
            "scaler": self.scaler.state_dict(),
        }
        # Copies: some are views of one tensor, which a file cannot hold.
        return ckpt.Checkpoint({k: t.cpu().clone() for k, t in tensors.items()}, facts)

    @torch.no_grad()
    def restore(self, saved: ckpt.Checkpoint, source: Path) -> None:
        """Goes back to ``saved``. Raises CheckpointError when it belongs to another run."""
        there = saved.facts["recipe"]
        assert isinstance(there, dict)
        here = self.recipe()
        here.pop(BEGINNING, None)
        differing = differences(here, there)
        if differing or saved.facts["dataset_sha256"] != self.pictures.sha256:
            what = ", ".join(differing) or "the pictures"
            raise CheckpointError(
                f"{source} is of another run ({what} differ); choose another --out or remove it"
            )
        self.sources.pop(BEGINNING, None)
        if BEGINNING in there:
            self.sources[BEGINNING] = str(there[BEGINNING])
        for name, parameter in self.network.named_parameters():
            parameter.copy_(saved.tensors[f"net.{name}"])
        self.step = int(str(saved.facts["step"]))
        self.optimiser.restore(saved.tensors, self.step)
        for index, value in enumerate(self.average.values):
            value.copy_(saved.tensors[f"average.{index}"])
        history = saved.facts["history"]
        assert isinstance(history, list)
        self.history = history
        scaler = saved.facts.get("scaler")
        if isinstance(scaler, dict) and scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)

    def save(self) -> Path:
        """Writes the checkpoint of this moment."""
        path = self.config.out / CHECKPOINT
        ckpt.save(self.state(), path)
        return path


@torch.no_grad()
def mean_psnr_y(network: nn.Module, pairs: list[Pair]) -> float:
    """Mean PSNR-Y in dB of a network over pairs, uint8-rounded, 4 pixels shaved."""
    device = next(network.parameters()).device
    values = []
    # Pictures have many sizes, each seen seldom: not worth cuDNN's trials.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        for pair in pairs:
            output = to_uint8(network(pair.lr[None].to(device).float().div(255.0)))
            values.append(psnr_y(output, pair.hr[None].to(device)))
    return sum(values) / len(values)
