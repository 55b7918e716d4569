"""Ablations: one change at a time against the default recipe, three seeds, resumable.

One JSON file per run; a run that was stopped goes on from its checkpoint. The table says 'not
run' for what was not, and 'no difference seen' for less than two standard deviations.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from engine.network import NetworkConfig
from trainer.blocks import BlockConfig
from trainer.config import AugmentConfig, FitConfig, OptimiserConfig
from trainer.data import PictureSet
from trainer.device import choose_device
from trainer.errors import DivergedError, TrainerError
from trainer.loop import Hooks, finish, train
from trainer.training import Trainer
from trainer.variants import HalfResolutionTrainer, InterpolatedRotationTrainer

BASELINE = "baseline"
PLAIN = BlockConfig(branches="plain", weight_norm=False)
RANGER_AT_4 = OptimiserConfig(learning_rate=4e-3)
SOAP = OptimiserConfig(method="soap", learning_rate=4e-3, betas=(0.95, 0.95), lookahead_steps=0)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what differs from the baseline."""

    key: str
    title: str
    changes: dict[str, Any]
    trainer: type[Trainer] = Trainer


def _mixture(name: str, title: str) -> Row:
    return Row(name, title, {"augment": AugmentConfig(**{name: 0.5})})


def _loss(key: str, title: str, spec: str) -> Row:
    return Row(key, title, {"losses": (spec,), "stages": (1.0,)})


ROWS: tuple[Row, ...] = (
    Row(BASELINE, "baseline: L1 + 0.01 GV, then MSE; 3x3 and 1x1, weight norm; Ranger", {}),
    Row("no-gv", "without the Gradient-Variance loss", {"losses": ("l1", "mse")}),
    Row("no-weight-norm", "without weight norm", {"block": BlockConfig(weight_norm=False)}),
    Row("plain", "3x3 alone (no RepBlock)", {"block": BlockConfig(branches="plain")}),
    Row("rich", "richer branches (identity, 1-3-1)", {"block": BlockConfig(branches="rich")}),
    Row("no-lookahead", "without Lookahead", {"optimiser": OptimiserConfig(lookahead_steps=0)}),
    _loss("no-mse", "without the MSE stage", "l1+0.01*gv"),
    _loss("ssim", "SSIM alone", "ssim"),
    _loss("ssim-smooth-l1", "SSIM + Smooth-L1", "ssim+smooth-l1"),
    _loss("ssim-sobel", "SSIM + Sobel", "ssim+sobel"),
    Row("any-rotation", "interpolated rotation", {}, InterpolatedRotationTrainer),
    _mixture("cutmix", "CutMix, half of the crops"),
    _mixture("cutblur", "CutBlur, half of the crops"),
    _mixture("cutout", "Cutout, half of the crops"),
    _mixture("mixup", "Mixup, half of the crops"),
    _mixture("cutmixup", "CutMixup, half of the crops"),
    _mixture("blend", "Blend, half of the crops"),
    Row("no-rgb", "without RGB permutation", {"augment": AugmentConfig(rgb=0.0)}),
    Row("skip-3", "local skips every 3 layers", {"network": NetworkConfig(skip_every=3)}),
    Row("skip-4", "local skips every 4 layers", {"network": NetworkConfig(skip_every=4)}),
    Row("half", "half-resolution trunk (C=32, 1.2 times the cost)", {}, HalfResolutionTrainer),
    Row("leaky", "LeakyReLU", {"network": NetworkConfig(activation="leaky_relu")}),
    Row("rate", "rate 4e-3 (the baseline's is 1e-3)", {"optimiser": RANGER_AT_4}),
    Row("soap", "SOAP at 4e-3, no Lookahead", {"optimiser": SOAP}),
    Row("soap-plain", "the same, 3x3 alone, no weight norm", {"optimiser": SOAP, "block": PLAIN}),
    Row("busy", "busy crops (1 of 3 candidates)", {"crop_candidates": 3}),
)


@dataclass(frozen=True, slots=True)
class AblateConfig:
    """A set of ablations; each run is C=16."""

    data: Path
    """Folder of high-resolution pictures."""
    out: Path = Path("runs/ablations")
    """Folder of the results, one JSON file per run."""
    table: Path = Path("docs/ablations.md")
    """The table that is written after every run."""
    iterations: int = 2_000
    """Iterations of each run."""
    batch: int = 16
    """Crops per iteration."""
    patch: int = 24
    """Side of a low-resolution crop in pixels; short ones teach more per minute on a CPU."""
    seeds: int = 3
    """Runs per row."""
    only: tuple[str, ...] = ()
    """Keys of the rows to run (the baseline always is); all by default."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.only) - {row.key for row in ROWS})
        if unknown:
            known = ", ".join(row.key for row in ROWS)
            raise ValueError(f"--only {unknown[0]} is not a row; there are {known}")
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {self.seeds}")

    def run_of(self, row: Row, seed: int) -> FitConfig:
        """The configuration of one run."""
        plain = FitConfig(
            data=self.data,
            out=self.out / f"{row.key}-{seed}",
            iterations=self.iterations,
            batch=self.batch,
            patch=self.patch,
            seed=seed,
            evaluate_every=max(1, self.iterations // 4),
        )
        return replace(plain, **row.changes)


def result_path(config: AblateConfig, row: Row, seed: int) -> Path:
    """Where the result of a run is kept."""
    return config.out / f"{row.key}-{seed}.json"


def ablate(config: AblateConfig, pictures: PictureSet, hooks: Hooks | None = None) -> Iterator[str]:
    """Runs what has no result yet, writes the table after each run and yields a line about it.

    Raises:
        Interrupted: ``hooks.stop`` said so; the same call goes on from there.
    """
    chosen = [row for row in ROWS if not config.only or row.key in {BASELINE, *config.only}]
    for row in chosen:
        for seed in range(config.seeds):
            path = result_path(config, row, seed)
            if not (path.is_file() and is_like(config, read_json(path))):
                result = run_one(row, config.run_of(row, seed), pictures, hooks or Hooks())
                write_json(path, result)
            write_table(config)
            yield f"{row.key}, seed {seed}: {outcome(read_json(path))}"


def run_one(row: Row, config: FitConfig, pictures: PictureSet, hooks: Hooks) -> dict[str, Any]:
    """Trains one run; divergence is a result, not an error."""
    result = {"row": row.key, "seed": config.seed, "recipe": config.recipe(),
              "dataset_sha256": pictures.sha256}  # fmt: skip
    trainer = row.trainer(config, pictures, choose_device(config))
    try:
        train(trainer, hooks)
    except DivergedError as error:
        return result | {"iterations": error.step, "diverged_at": error.step}
    if row.key == BASELINE:  # its seeds are what seed averaging is measured with
        finish(trainer, f"{row.key}-{config.seed}")
    last = trainer.history[-1]
    return result | {"iterations": trainer.step, "psnr_y_db": last["psnr_y_db"]}


def outcome(result: dict[str, Any]) -> str:
    """One run in words."""
    if "diverged_at" in result:
        return f"not finite at iteration {result['diverged_at']}"
    return f"{result['psnr_y_db']:.3f} dB"


def write_json(path: Path, value: object) -> None:
    """Replaces ``path`` at once. Raises TrainerError when it cannot."""
    _replace(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise TrainerError(f"{path} cannot be written ({error}); free space") from error


def read_json(path: Path) -> dict[str, Any]:
    """A result. Raises TrainerError when it is damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TrainerError(f"{path} is not a result ({error}); remove it to run again") from error
    assert isinstance(value, dict)
    return value


def results_of(config: AblateConfig, row: Row) -> list[dict[str, Any]]:
    """The results of a row that there are, of every seed, of runs like those asked for."""
    numbers = (
        path.stem.removeprefix(f"{row.key}-") for path in config.out.glob(f"{row.key}-*.json")
    )
    seeds = sorted(int(number) for number in numbers if number.isdecimal())
    found = [read_json(result_path(config, row, seed)) for seed in seeds]
    return [result for result in found if is_like(config, result)]


def is_like(config: AblateConfig, result: dict[str, Any]) -> bool:
    """Whether a result is of a run of this length, batch and crop; one that diverged was to be."""
    recipe = result["recipe"]
    wanted = (config.iterations, config.batch, config.patch)
    return (recipe["iterations"], recipe["batch"], recipe["patch"]) == wanted


def verdict(values: list[float], baseline: list[float]) -> str:
    """The difference to the baseline in words, by the pooled standard deviation of the seeds."""
    if len(values) < 2 or len(baseline) < 2:
        return f"{mean(values) - mean(baseline):+.3f} dB, too few seeds to judge"
    freedom = len(values) + len(baseline) - 2
    squares = stdev(values) ** 2 * (len(values) - 1) + stdev(baseline) ** 2 * (len(baseline) - 1)
    spread = math.sqrt(squares / freedom)
    difference = mean(values) - mean(baseline)
    if abs(difference) < 2 * spread:
        return f"no difference seen ({difference:+.3f} dB, sd {spread:.3f})"
    return f"{difference:+.3f} dB"


def table_line(row: Row, results: list[dict[str, Any]], baseline: list[float]) -> str:
    """One line of the Markdown table."""
    if not results:
        return f"| {row.title} | not run | | | |"
    values = [r["psnr_y_db"] for r in results if "psnr_y_db" in r]
    lost = [str(r["diverged_at"]) for r in results if "diverged_at" in r]
    iterations = max(r["iterations"] for r in results)
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    score = f"{mean(values):.3f}{spread}" if values else "-"
    said = "" if row.key == BASELINE or not values or not baseline else verdict(values, baseline)
    if lost:
        said = f"not finite at iteration {', '.join(lost)}" + (f"; {said}" if said else "")
    elif row.key == "no-weight-norm":
        said += "; always finite"
    return f"| {row.title} | {iterations} | {len(results)} | {score} | {said} |"


def write_table(config: AblateConfig) -> None:
    """Writes the Markdown table of all rows, whatever has been run."""
    baseline = [r["psnr_y_db"] for r in results_of(config, ROWS[0]) if "psnr_y_db" in r]
    lines = [table_line(row, results_of(config, row), baseline) for row in ROWS]
    text = HEADER.format(iterations=config.iterations, batch=config.batch, patch=config.patch)
    _replace(config.table, text + "\n".join(lines) + "\n")


HEADER = """# Ablations

Made by `make ablations` (`sr-train ablate`); each line changes one thing of the baseline. C=16,
{iterations} iterations, batch {batch}, LR crops of {patch} pixels; PSNR-Y on whole source pictures
held out of the training set (Set5 and Set14 are not looked at), mean ± standard deviation over the
seeds. 'No difference seen' means less than two pooled standard deviations of the seeds. Runs are
short: what helps late, or big networks, does not show here.

| change | iterations | seeds | PSNR-Y, dB | against the baseline |
|---|---|---|---|---|
"""
