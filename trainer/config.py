"""Everything that ``sr-train fit`` can be told; the field docstrings are its ``--help``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from engine.network import NetworkConfig
from trainer.blocks import BlockConfig

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Degradation = Literal["none", "video"]
Method = Literal["radam", "soap"]
Recipe = dict[str, object]
COUNTS = ("iterations", "batch", "patch", "crop_candidates", "evaluate_every", "checkpoint_every")


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """RAdam or SOAP inside Lookahead, with a warm-up and one cosine over the whole run."""

    method: Method = "radam"
    """``radam`` (with Lookahead: "Ranger"), or ``soap``: Adam in Shampoo's eigenbasis."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    final_learning_rate: float = 1e-6
    """Learning rate that the cosine ends on."""
    warmup_iterations: int = 100
    """Linear warm-up at the start."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the first and second moments."""
    lookahead_steps: int = 5
    """Fast steps between two slow ones (k); 0 switches Lookahead off."""
    lookahead_alpha: float = 0.8
    """How far a slow step goes towards the fast weights; 1 equals none."""
    gradient_clip: float = 1.0
    """Largest gradient norm; larger ones are scaled down."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average that is evaluated and shipped; 0 is none."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Probability of each augmentation per crop; 1 is always, 0 is never."""

    dihedral: float = 1.0
    """Flips and 90-degree rotations (never interpolated ones)."""
    rgb: float = 1.0
    """Random order of the colour channels."""
    cutblur: float = 0.0
    """A box of the LR crop is replaced by the point-sampled HR."""
    cutout: float = 0.0
    """A box is black in LR and HR."""
    cutmix: float = 0.0
    """A box is taken from another crop of the batch."""
    mixup: float = 0.0
    """The crop is blended with another one of the batch."""
    cutmixup: float = 0.0
    """A box of the crop is blended with another one of the batch."""
    blend: float = 0.0
    """The crop is blended with one colour."""

    def __post_init__(self) -> None:
        for name, probability in asdict(self).items():
            if not 0.0 <= probability <= 1.0:
                raise ValueError(f"--augment.{name} must be from 0 to 1, got {probability:g}")


@dataclass(frozen=True, slots=True)
class FitConfig:
    """One training run."""

    data: Path
    """Folder of high-resolution pictures, or a folder with ``lr`` and ``hr`` folders in it."""
    out: Path = Path("runs/custom")
    """Folder of the run: checkpoint, weights, log, report."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Shape of the network that ships."""
    block: BlockConfig = field(default_factory=BlockConfig)
    """Over-parameterisation while training."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser and schedule."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the crops."""
    degradation: Degradation = "none"
    """``video``: LR pictures are compressed (H.264, JPEG, WebP), blurred and noised on the fly."""
    iterations: int = 10_000
    """Optimiser steps in all."""
    batch: int = 16
    """Crops per step, over all processes."""
    patch: int = 48
    """Side of a low-resolution crop in pixels; the target is 4 times that."""
    crop_candidates: int = 1
    """Random crops drawn for each one that is taken; with more than one, busy ones are likelier."""
    losses: tuple[str, ...] = ("l1+0.01*gv", "mse")
    """One loss per stage, each a sum such as ``l1+0.01*gv``."""
    stages: tuple[float, ...] = (0.7, 0.3)
    """Fraction of the iterations that each stage takes."""
    seed: int = 0
    """Seed of the initial weights, the crops and the augmentation."""
    validation_pictures: int = 16
    """Whole pictures held out of the training set to choose by."""
    evaluate_every: int = 1_000
    """Iterations between two validations."""
    checkpoint_every: int = 500
    """Iterations between two checkpoints."""
    device: Device = "auto"
    """``auto`` takes a CUDA GPU where there is one."""
    precision: Precision = "auto"
    """``auto`` takes bf16 autocast where the processor or GPU has it."""
    compile: bool = False
    """Compile the network with torch.compile (a GPU, and steps that --capture cannot take)."""
    capture: bool = False
    """Run crops, forward and backward pass as one CUDA graph: the fastest way on a GPU."""
    start_from: Path | None = None
    """Weights, or checkpoint of another run of the same ``network``, that this run starts from."""
    ensemble_teacher: Path | None = None
    """Weights whose x8 self-ensemble is blended into the targets (any width, also its own)."""
    ensemble_share: float = 0.5
    """Share of the ensemble in the targets."""
    teacher: Path | None = None
    """Checkpoint of a x4 network that spandrel loads, to distil from."""
    teacher_weight: float = 0.1
    """Weight of the L1 distance to the teacher's output."""

    def __post_init__(self) -> None:
        if len(self.losses) != len(self.stages):
            raise ValueError(
                f"--losses has {len(self.losses)} stages and --stages {len(self.stages)}; "
                "give one fraction per loss"
            )
        if abs(sum(self.stages) - 1.0) > 1e-6:
            raise ValueError(f"--stages must add up to 1, got {sum(self.stages):g}")
        if not 0.0 <= self.ensemble_share <= 1.0:
            raise ValueError(f"--ensemble-share must be from 0 to 1, got {self.ensemble_share:g}")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")

    def recipe(self) -> Recipe:
        """What decides the result, as JSON values: goes into the header of the weights."""
        values = asdict(self)
        for name in ("data", "out", "device", "compile", "capture", "checkpoint_every"):
            values.pop(name)
        for name in ("start_from", "ensemble_teacher", "teacher"):
            values[name] = None if values[name] is None else Path(values[name]).name
        plain: Recipe = json.loads(json.dumps(values))
        return plain

    def stage_at(self, step: int) -> int:
        """Index of the stage that iteration ``step`` (from 0) belongs to."""
        passed = 0.0
        for index, fraction in enumerate(self.stages[:-1]):
            passed += fraction
            if step < round(passed * self.iterations):
                return index
        return len(self.stages) - 1


def flatten(recipe: Mapping[str, object], prefix: str = "") -> Recipe:
    """Nested recipe -> ``{"network.width": 16, ...}``."""
    flat: Recipe = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    """The settings in which two recipes differ, as flag names.

    A setting that one of them does not have (an older trainer wrote it) has its default there.
    """
    defaults = flatten(FitConfig(Path()).recipe())
    a, b = defaults | flatten(here), defaults | flatten(there)
    return sorted(key for key in a.keys() & b.keys() if a[key] != b[key])
