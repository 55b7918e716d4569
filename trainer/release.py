"""Training what ships: each width by its recipe in the time it is given, then its scores.

The recipe is what won the trials of docs/experiments.md: SOAP on plain 3x3 kernels, EMA, L1 on
rather busy crops with half of the targets from the ``quality`` that ships (for ``quality``, too),
and at the end a shorter run at a quarter of the rate with MSE on crops as they come. On a GPU
batches are larger and a step is one CUDA graph.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.models import MODELS_DIR
from engine.network import NetworkConfig
from trainer import checkpoint as ckpt
from trainer.blocks import BlockConfig
from trainer.captured_trainer import trainer_for
from trainer.config import AugmentConfig, Device, FitConfig, OptimiserConfig
from trainer.data import PictureSet
from trainer.device import choose_device, wait_for
from trainer.evaluate import bicubic_enlarge, enlarge_with, evaluate, read_pairs
from trainer.files import replace_file
from trainer.loop import WEIGHTS, side_stream
from trainer.training import CHECKPOINT
from trainer.weights import load_network

WIDTHS = {"quality": 32, "balanced": 24, "fast": 16, "fast-video": 16}
TEACHER = "quality"
"""Half of the targets are its self-ensemble's, but for the finish."""
TIMED_STEPS = 40
FINISH_SHARE = 0.25
"""Of the time, for the run on crops as they come."""


@dataclass(frozen=True, slots=True)
class ReleaseConfig:
    """Which widths are trained, on what, and for how long."""

    data: Path
    """Folder of high-resolution pictures."""
    names: tuple[str, ...] = ("quality", "balanced", "fast")
    """Widths, in the order in which they get their time: quality, balanced, fast, fast-video."""
    out: Path = Path("runs/release")
    """One run folder per width; the same command goes on where it was stopped."""
    minutes: float = 15.0
    """Time for each width: some steps are timed first, and the schedule is made to fit."""
    iterations: int | None = None
    """Steps of each width instead of a time; a third of them more for its finish."""
    benchmarks: tuple[Path, ...] = ()
    """Folders of high-resolution pictures that the weights are scored on at the end."""
    fresh: bool = False
    """Start from random weights rather than from those that ship."""
    together: bool = False
    """Train the widths side by side, in the time of all: small networks leave a GPU half idle."""
    device: Device = "auto"
    """``auto`` takes a CUDA GPU where there is one."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names) - set(WIDTHS))
        if unknown:
            raise ValueError(f"--names {unknown[0]} is not a width; there are {', '.join(WIDTHS)}")
        if not self.names:
            raise ValueError(f"--names is empty; give some of {', '.join(WIDTHS)}")
        if self.iterations is not None and self.iterations < 1:
            raise ValueError(f"--iterations must be at least 1, got {self.iterations}")
        if self.minutes <= 0:
            raise ValueError(f"--minutes must be above 0, got {self.minutes:g}")


def recipe_of(config: ReleaseConfig, name: str) -> FitConfig:
    """The first run of a width; its ``iterations`` are a guess until :func:`fitted` timed it."""
    video = name == "fast-video"
    on_gpu = choose_device(FitConfig(config.data, device=config.device)).type == "cuda"
    return FitConfig(
        data=config.data,
        out=config.out / name,
        network=NetworkConfig(width=WIDTHS[name]),
        block=BlockConfig(branches="plain", weight_norm=False),
        optimiser=OptimiserConfig(
            method="soap",
            learning_rate=4e-3 if on_gpu else 2e-3,
            betas=(0.95, 0.95),
            lookahead_steps=0,
        ),
        augment=AugmentConfig(rgb=0.0),
        degradation="video" if video else "none",
        iterations=config.iterations or 40_000,
        batch=64 if on_gpu else 8,
        patch=48,
        crop_candidates=3,
        losses=("l1",),
        stages=(1.0,),
        evaluate_every=5_000 if on_gpu else 2_000,
        checkpoint_every=5_000 if on_gpu else 500,
        device=config.device,
        compile=on_gpu and video,
        capture=on_gpu and not video,
        start_from=None if config.fresh else MODELS_DIR / f"{name}.safetensors",
        ensemble_teacher=MODELS_DIR / f"{TEACHER}.safetensors",
    )


def finish_of(run: FitConfig) -> FitConfig:
    """The run that goes on from the weights of ``run``, on crops as they come."""
    return replace(
        run,
        out=run.out / "finish",
        start_from=run.out / WEIGHTS,
        optimiser=replace(run.optimiser, learning_rate=run.optimiser.learning_rate / 4),
        iterations=max(1, int(run.iterations * FINISH_SHARE / (1 - FINISH_SHARE))),
        crop_candidates=1,
        ensemble_teacher=None,
        losses=("mse",),
        stages=(1.0,),
    )


def fitted(
    config: ReleaseConfig, runs: Mapping[str, FitConfig], pictures: PictureSet
) -> dict[str, FitConfig]:
    """``runs`` with as many iterations as the time allows, or as those that they go on had.

    Several runs are meant to take turns, and get the time of all of them.
    """
    checkpoints = {name: run.out / CHECKPOINT for name, run in runs.items()}
    counts = {
        name: iterations_of(ckpt.load(path).facts["recipe"])
        for name, path in checkpoints.items()
        if path.is_file()
    }
    if len(counts) < len(runs) and config.iterations is None:
        seconds = config.minutes * 60 * len(runs) * (1 - FINISH_SHARE)
        timed = steps_in(seconds, seconds_per_round(list(runs.values()), pictures))
        counts = dict.fromkeys(runs, timed) | counts
    return {
        name: replace(run, iterations=counts.get(name, run.iterations))
        for name, run in runs.items()
    }


def iterations_of(recipe: object) -> int:
    """Those of a recipe in a checkpoint."""
    assert isinstance(recipe, dict)
    return int(recipe["iterations"])


def steps_in(seconds: float, step_seconds: float) -> int:
    """Whole hundreds of steps that fit, at least one hundred; a twentieth is for validation."""
    return max(1, int(0.95 * seconds / step_seconds) // 100) * 100


def seconds_per_round(runs: Sequence[FitConfig], pictures: PictureSet) -> float:
    """Wall time of a step of each run, after as many that compile and warm up; nothing is kept."""
    trainers = [
        trainer_for(replace(run, ensemble_teacher=None), pictures, choose_device(run))
        for run in runs
    ]
    turns = [(trainer, side_stream(trainer.device)) for trainer in trainers]
    begun = time.monotonic()
    for step in range(2 * TIMED_STEPS):
        if step == TIMED_STEPS:
            wait_for(trainers[0].device)
            begun = time.monotonic()
        for trainer, stream in turns:
            with stream:
                trainer.train_step()
    wait_for(trainers[0].device)
    return (time.monotonic() - begun) / TIMED_STEPS


def scores_on(folders: tuple[Path, ...], weights: Path) -> dict[str, object]:
    """Mean scores of ``weights`` and of bicubic on each folder, by the folder's name.

    Raises:
        DataError: names the folder or the picture.
    """
    methods = {"bicubic": bicubic_enlarge, "ours": enlarge_with([load_network(str(weights))])}
    return {str(folder): evaluate(methods, read_pairs(folder))["mean"] for folder in folders}


def check_benchmarks(folders: tuple[Path, ...]) -> None:
    """Reads what will be scored on: better now than after hours of training.

    Raises:
        DataError: names the folder or the picture.
    """
    for folder in folders:
        read_pairs(folder)


def write_scores(path: Path, scores: dict[str, object]) -> None:
    """Replaces ``path`` at once. Raises TrainerError when it cannot."""
    replace_file(path, (json.dumps(scores, indent=1, sort_keys=True) + "\n").encode())
