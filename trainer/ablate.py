"""Ablations: one change at a time against the default recipe, three seeds, resumable.

One JSON file per run; a run that was stopped goes on from its checkpoint. A result counts where
its pictures and its recipe are those that are asked for. The table says 'not run' for what was not,
and 'no difference seen' for less than two standard deviations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.ablation_rows import BASELINE, ROWS, Row
from trainer.ablation_table import Result, page
from trainer.config import FitConfig, differences
from trainer.data import PictureSet
from trainer.device import choose_device, machine
from trainer.errors import DivergedError, TrainerError
from trainer.files import remove_leftovers, replace_file
from trainer.loop import Hooks, finish, train


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
    machine: str = ""
    """Machine of the results that do not name theirs (an older trainer wrote them)."""

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
        TrainerError: a result in ``config.out`` is of other pictures or another recipe.
        Interrupted: ``hooks.stop`` said so; the same call goes on from there.
    """
    chosen = [row for row in ROWS if not config.only or row.key in {BASELINE, *config.only}]
    runs = [(row, seed) for row in chosen for seed in range(config.seeds)]
    for row, seed in runs:
        refuse_another(config, row, seed, pictures)
    remove_leftovers(config.out)
    remove_leftovers(config.table.parent, config.table.name)
    for row, seed in runs:
        path = result_path(config, row, seed)
        if not path.is_file():
            write_json(path, run_one(row, config.run_of(row, seed), pictures, hooks or Hooks()))
        write_table(config, pictures)
        yield f"{row.key}, seed {seed}: {outcome(read_result(path))}"


def run_one(row: Row, config: FitConfig, pictures: PictureSet, hooks: Hooks) -> Result:
    """Trains one run; divergence is a result, not an error."""
    device = choose_device(config)
    result: Result = {
        "row": row.key,
        "seed": config.seed,
        "recipe": config.recipe(),
        "dataset_sha256": pictures.sha256,
        "machine": machine(config, device),
    }
    trainer = row.trainer(config, pictures, device)
    try:
        train(trainer, hooks)
    except DivergedError as error:
        result |= {"iterations": error.step, "diverged_at": error.step}
    else:
        if row.key == BASELINE:  # its seeds are what seed averaging is measured with
            finish(trainer, f"{row.key}-{config.seed}")
        last = trainer.history[-1]
        result |= {"iterations": trainer.step, "psnr_y_db": last["psnr_y_db"]}
    return result | {"date": datetime.now(UTC).date().isoformat()}


def outcome(result: Result) -> str:
    """One run in words."""
    if "diverged_at" in result:
        return f"not finite at iteration {result['diverged_at']}"
    return f"{result['psnr_y_db']:.3f} dB"


def write_json(path: Path, value: object) -> None:
    """Replaces ``path`` at once. Raises TrainerError when it cannot."""
    replace_file(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_result(path: Path) -> Result:
    """A result. Raises TrainerError when it is damaged."""
    try:
        value: Any = json.loads(path.read_text())
        whole = isinstance(value["recipe"], dict) and isinstance(value["iterations"], int)
        missing = None if whole and {"psnr_y_db", "diverged_at"} & set(value) else "no score"
    except (OSError, ValueError, KeyError, TypeError) as error:
        missing = str(error)
    if missing is not None:
        raise TrainerError(f"{path} is not a result ({missing}); remove it to run again")
    return dict(value)


def results_of(config: AblateConfig, row: Row, pictures: PictureSet) -> list[Result]:
    """The results of a row that there are, of every seed, of runs like those asked for.

    Each has the ``date`` it was written on and the ``machine`` it was made on.
    """
    numbers = (
        path.stem.removeprefix(f"{row.key}-") for path in config.out.glob(f"{row.key}-*.json")
    )
    found = []
    for seed in sorted(int(number) for number in numbers if number.isdecimal()):
        path = result_path(config, row, seed)
        result = read_result(path)
        if not unlike(config.run_of(row, seed), pictures, result):
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
            known = {"date": written, "machine": config.machine or "a machine not written down"}
            found.append(known | result)
    return found


def refuse_another(config: AblateConfig, row: Row, seed: int, pictures: PictureSet) -> None:
    """Raises TrainerError when the result of a run is there, but of another one than asked for."""
    path = result_path(config, row, seed)
    if path.is_file():
        what = unlike(config.run_of(row, seed), pictures, read_result(path))
        if what:
            raise TrainerError(
                f"{path} is of another run ({', '.join(what)} differ); choose another --out or "
                "remove it"
            )


def unlike(run: FitConfig, pictures: PictureSet, result: Result) -> list[str]:
    """In what a result is not one of ``run`` on ``pictures``: settings by name, or the pictures."""
    what = differences(run.recipe(), result["recipe"])
    return what if result.get("dataset_sha256") == pictures.sha256 else ["the pictures", *what]


def write_table(config: AblateConfig, pictures: PictureSet) -> None:
    """Writes the Markdown table of all rows, whatever has been run."""
    found = [(row, results_of(config, row, pictures)) for row in ROWS]
    text = page(config.run_of(ROWS[0], 0), pictures, found)
    replace_file(config.table, text.encode(), "--table")
