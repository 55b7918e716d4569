"""The training loop: one run from a folder of pictures to a checkpoint and plain weights.

Every random choice of a step is drawn from (seed, step), so that a run resumed after kill -9
goes on exactly as if it had not been stopped, and several processes draw the same batch and each
take their share of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer import checkpoint as ckpt
from trainer.augment import flips_and_rotations, permute_channels
from trainer.blocks import TrainingNetwork, fuse
from trainer.config import FitConfig
from trainer.data import Pair, PictureSet, sample_batch
from trainer.errors import CheckpointError, DivergedError
from trainer.losses import parse_loss
from trainer.metrics import psnr_y, to_uint8
from trainer.optim import MovingAverage, Ranger, learning_rate
from trainer.weights import file_sha256, save_weights

CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "weights.safetensors"
OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a run left behind."""

    weights: Path
    checkpoint: Path
    validation_psnr_y_db: float
    history: list[dict[str, float]]


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of every random choice of one iteration."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class Trainer:
    """Network, optimiser and average of one run, and how they are saved and restored."""

    def __init__(self, config: FitConfig, pictures: PictureSet, device: torch.device) -> None:
        self.config, self.device = config, device
        self.pictures = pictures.to(device)
        network = TrainingNetwork(config.network, config.block, config.seed)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = Ranger(self.network.parameters(), config.optimiser)
        self.average = MovingAverage(self.optimiser.slow, config.optimiser.ema_decay)
        self.losses = [parse_loss(spec) for spec in config.losses]
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.amp = autocast_enabled(config, device)

    def train_step(self) -> float:
        """One optimiser step; returns the loss. Raises DivergedError when it is not finite."""
        config, generator = self.config, step_generator(self.config.seed, self.step)
        batch = sample_batch(self.pictures.train, config.batch, config.patch, generator)
        batch = permute_channels(flips_and_rotations(batch, generator), generator)
        lr, hr = (x.float().div_(255.0) for x in batch)
        lr = lr.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            output = self.network(lr)
        loss = self.losses[config.stage_at(self.step)](output.float(), hr)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), config.optimiser.gradient_clip
        )
        value = float(loss.detach())
        if not bool(torch.isfinite(norm)) or value != value:
            raise DivergedError(
                f"the loss is {value} at iteration {self.step} (batch drawn from seed "
                f"{config.seed}, step {self.step}); lower --optimiser.learning-rate"
            )
        self.optimiser.step(learning_rate(self.step, config.iterations, config.optimiser))
        self.average.update(self.optimiser.slow, self.step)
        self.step += 1
        return value

    def shipped_weights(self) -> list[Tensor]:
        """What is evaluated and shipped: the moving average, or the slow weights without one."""
        return self.average.values if self.config.optimiser.ema_decay else self.optimiser.slow

    def validate(self) -> float:
        """Mean PSNR-Y in dB over the validation pictures, in float32."""
        with self.optimiser.weights(self.shipped_weights()):
            plain = fuse(self.network).to(self.device)
        return mean_psnr_y(plain, self.pictures.validation)

    def state(self) -> ckpt.Checkpoint:
        """Everything needed to go on exactly from here."""
        tensors = {f"net.{k}": v.detach() for k, v in self.network.named_parameters()}
        tensors |= self.optimiser.tensors()
        tensors |= {f"average.{i}": t for i, t in enumerate(self.average.values)}
        facts: dict[str, object] = {
            "step": self.step,
            "recipe": json.loads(json.dumps(self.config.recipe())),
            "dataset_sha256": self.pictures.sha256,
            "history": self.history,
        }
        return ckpt.Checkpoint({k: t.cpu() for k, t in tensors.items()}, facts)

    @torch.no_grad()
    def restore(self, saved: ckpt.Checkpoint, source: Path) -> None:
        """Goes back to ``saved``. Raises CheckpointError when it belongs to another run."""
        here = json.loads(json.dumps(self.config.recipe()))
        there = saved.facts["recipe"]
        assert isinstance(there, dict)
        differing = sorted(k for k in here if here[k] != there.get(k))
        if differing or saved.facts["dataset_sha256"] != self.pictures.sha256:
            what = ", ".join(differing) or "the pictures"
            raise CheckpointError(
                f"{source} is of another run ({what} differ); choose another --out or remove it"
            )
        for name, parameter in self.network.named_parameters():
            parameter.copy_(saved.tensors[f"net.{name}"])
        self.step = int(str(saved.facts["step"]))
        self.optimiser.restore(saved.tensors, self.step)
        for index, value in enumerate(self.average.values):
            value.copy_(saved.tensors[f"average.{index}"])
        history = saved.facts["history"]
        assert isinstance(history, list)
        self.history = history

    def save(self) -> Path:
        """Writes the checkpoint of this moment."""
        path = self.config.out / CHECKPOINT
        ckpt.save(self.state(), path)
        return path


def autocast_enabled(config: FitConfig, device: torch.device) -> bool:
    """Whether the forward pass runs in bf16."""
    if config.precision == "auto":
        return device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return config.precision == "bf16"


@torch.no_grad()
def mean_psnr_y(network: torch.nn.Module, pairs: list[Pair]) -> float:
    """Mean PSNR-Y in dB of a network over pairs, uint8-rounded, 4 pixels shaved."""
    values = []
    for pair in pairs:
        output = to_uint8(network(pair.lr[None].float().div(255.0)))
        values.append(psnr_y(output, pair.hr[None]))
    return sum(values) / len(values)


def fit(
    config: FitConfig, pictures: PictureSet, on_step: OnStep = lambda step, row: None
) -> FitResult:
    """Trains from where ``config.out`` stands to ``config.iterations`` and writes the weights.

    Args:
        config: the run; ``config.out`` may hold a checkpoint of the same run.
        pictures: from ``trainer.data.load_folder``.
        on_step: called after every step with its number (from 1) and ``loss``, and at validations
            ``psnr_y_db``.

    Raises:
        CheckpointError: ``config.out`` holds a checkpoint of another run.
        DivergedError: the loss became NaN or infinite.
    """
    device = choose_device(config)
    trainer = Trainer(config, pictures, device)
    path = config.out / CHECKPOINT
    if path.is_file():
        trainer.restore(ckpt.load(path), path)
    started, first = time.monotonic(), trainer.step
    while trainer.step < config.iterations:
        row = {"step": float(trainer.step + 1), "loss": trainer.train_step()}
        last = trainer.step == config.iterations
        if trainer.step % config.evaluate_every == 0 or last:
            row["psnr_y_db"] = trainer.validate()
            row["seconds"] = time.monotonic() - started
            row["steps_per_second"] = (trainer.step - first) / row["seconds"]
            trainer.history.append(row)
        on_step(trainer.step, row)
        if trainer.step % config.checkpoint_every == 0 or last:
            trainer.save()
    return finish(trainer)


def finish(trainer: Trainer, name: str = "custom") -> FitResult:
    """Fuses and writes the plain weights of a finished run, with the hashes they came from."""
    config = trainer.config
    with trainer.optimiser.weights(trainer.shipped_weights()):
        plain = fuse(trainer.network)
    checkpoint_path = config.out / CHECKPOINT
    provenance = {
        "dataset_sha256": trainer.pictures.sha256,
        "checkpoint_sha256": file_sha256(checkpoint_path),
        "recipe": json.dumps(config.recipe(), sort_keys=True),
        "iterations": str(trainer.step),
    }
    weights = config.out / WEIGHTS
    save_weights(plain, weights, name, provenance)
    best = trainer.history[-1]["psnr_y_db"] if trainer.history else float("nan")
    return FitResult(weights, checkpoint_path, best, trainer.history)


def choose_device(config: FitConfig) -> torch.device:
    """The device of ``config.device``; ``cuda`` without a GPU is an error, not a fallback."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("--device cuda but PyTorch sees no CUDA GPU; use --device cpu")
    return torch.device(config.device)
