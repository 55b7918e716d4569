"""The training loop: one run from a folder of pictures to a checkpoint and plain weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer import checkpoint as ckpt
from trainer.captured_trainer import trainer_for
from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.device import choose_device, processes, wait_for
from trainer.distill import load_teacher
from trainer.errors import Interrupted
from trainer.files import remove_leftovers
from trainer.training import CHECKPOINT, Trainer
from trainer.weights import file_sha256, save_weights

WEIGHTS = "weights.safetensors"
OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a run left behind."""

    weights: Path
    checkpoint: Path
    validation_psnr_y_db: float
    history: list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a caller hears of a run. Called in the first process only, but for ``stop``."""

    on_step: OnStep = lambda step, row: None
    """After every step, with its number (from 1) and ``loss``, at validations ``psnr_y_db``."""
    on_resume: Callable[[int], None] = lambda step: None
    """Once, with the step of the checkpoint that the run goes on from."""
    on_pictures: Callable[[int, Tensor, Tensor], None] = lambda step, output, hr: None
    """At validations, with what the network makes of the first picture, and its HR."""
    stop: Callable[[], bool] = lambda: False
    """True stops the run after the step that it is in."""


def fit(
    config: FitConfig, pictures: PictureSet, hooks: Hooks | None = None, name: str = "custom"
) -> FitResult:
    """Trains from where ``config.out`` stands to ``config.iterations`` and writes the weights.

    Args:
        config: the run; ``config.out`` may hold a checkpoint of the same run.
        pictures: from ``trainer.data.load_folder``.
        name: of the weights, in their header.

    Raises:
        CheckpointError: ``config.out`` holds a checkpoint of another run.
        DivergedError: the loss became NaN or infinite.
        Interrupted: ``hooks.stop`` said so; the checkpoint is of the last finished step.
    """
    device = choose_device(config)
    teacher = None if config.teacher is None else load_teacher(config.teacher, device)
    with processes(device) as share:
        trainer = trainer_for(config, pictures, device, share, teacher)
        train(trainer, hooks or Hooks())
        return finish(trainer, name)


def fit_together(
    configs: Mapping[str, FitConfig], pictures: PictureSet, hooks: Mapping[str, Hooks]
) -> dict[str, FitResult]:
    """Several runs of :func:`fit` in turn step by step, by the names of their weights.

    On a GPU each has a stream of its own: kernels of small networks leave room for each other's.

    Raises:
        As :func:`fit`. When ``stop`` of one says so, all that are told so stop with a checkpoint.
    """
    trainers = {}
    for name, config in configs.items():
        device = choose_device(config)
        teacher = None if config.teacher is None else load_teacher(config.teacher, device)
        trainers[name] = trainer_for(config, pictures, device, teacher=teacher)
    interrupted: Interrupted | None = None
    turns = [(side_stream(t.device), steps(t, hooks[name])) for name, t in trainers.items()]
    while turns:
        for turn in list(turns):
            stream, run = turn
            with stream:
                try:
                    next(run)
                except StopIteration:
                    turns.remove(turn)
                except Interrupted as stopped:
                    interrupted = stopped
                    turns.remove(turn)
    if interrupted is not None:
        raise interrupted
    for trainer in trainers.values():
        wait_for(trainer.device)
    return {name: finish(trainer, name) for name, trainer in trainers.items()}


def side_stream(device: torch.device) -> AbstractContextManager[object]:
    """Inside, what is asked of a GPU is done beside what other streams do; elsewhere in order."""
    if device.type != "cuda":
        return nullcontext()
    torch.cuda.synchronize(device)  # what was made so far is there for every stream
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    beside: AbstractContextManager[object] = torch.cuda.stream(stream)
    return beside


def train(trainer: Trainer, hooks: Hooks) -> None:
    """The loop of :func:`fit`: from the checkpoint, if there is one, to the last iteration."""
    for _ in steps(trainer, hooks):
        pass


def steps(trainer: Trainer, hooks: Hooks) -> Iterator[int]:
    """The steps of :func:`train`, by their numbers."""
    config, main = trainer.config, trainer.share.rank == 0
    path = config.out / CHECKPOINT
    if main:
        remove_leftovers(config.out)
    if path.is_file():
        trainer.restore(ckpt.load(path), path)
        hooks.on_resume(trainer.step)
    started, first = time.monotonic(), trainer.step
    while trainer.step < config.iterations:
        row = {"step": float(trainer.step + 1), "loss": trainer.train_step()}
        last = trainer.step == config.iterations
        if main and (trainer.step % config.evaluate_every == 0 or last):
            row["psnr_y_db"] = trainer.validate()
            row["seconds"] = time.monotonic() - started
            row["steps_per_second"] = (trainer.step - first) / row["seconds"]
            trainer.history.append(row)
            hooks.on_pictures(trainer.step, *trainer.sample())
        stopping = not last and trainer.share.any(hooks.stop())
        if main:
            hooks.on_step(trainer.step, row)
            if trainer.step % config.checkpoint_every == 0 or last or stopping:
                trainer.save()
        if stopping:
            raise Interrupted(f"stopped at iteration {trainer.step}; the same command goes on")
        yield trainer.step


def finish(trainer: Trainer, name: str = "custom") -> FitResult:
    """Fuses and writes the plain weights of a finished run, with the hashes they came from."""
    config = trainer.config
    best = trainer.history[-1]["psnr_y_db"] if trainer.history else float("nan")
    result = FitResult(config.out / WEIGHTS, config.out / CHECKPOINT, best, trainer.history)
    if trainer.share.rank:
        return result
    with trainer.optimiser.weights(trainer.shipped_weights()):
        plain = trainer.fused()
    provenance = {
        "dataset_sha256": trainer.pictures.sha256,
        "checkpoint_sha256": file_sha256(result.checkpoint),
        "recipe": json.dumps(trainer.recipe(), sort_keys=True),
        "iterations": str(trainer.step),
    }
    save_weights(plain, result.weights, name, provenance)
    return result
