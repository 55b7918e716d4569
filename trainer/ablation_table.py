"""The Markdown table of ablations: what was seen, on what, where and when, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from trainer.ablation_rows import BASELINE, Row
from trainer.config import FitConfig
from trainer.data import PictureSet

Result = dict[str, Any]


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


def table_line(row: Row, results: Sequence[Result], baseline: list[float]) -> str:
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


def origin(run: FitConfig, pictures: PictureSet, results: Sequence[Result]) -> str:
    """The sentences that say on what the runs were made, where and when."""
    folder = Path(*run.data.resolve().parts[-2:])
    lines = [
        f"Data: `{folder}`, {len(pictures.train)} pictures to train on and "
        f"{len(pictures.validation)} held out, sha256 `{pictures.sha256}`."
    ]
    if results:
        days = sorted({result["date"] for result in results})
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        machines = " and ".join(sorted({result["machine"] for result in results}))
        lines.append(f"Runs: {span}, on {machines}.")
    return "\n".join(lines)


def page(
    run: FitConfig, pictures: PictureSet, found: Sequence[tuple[Row, Sequence[Result]]]
) -> str:
    """The whole document.

    Args:
        run: any of the runs, for what they have in common.
        pictures: what they were trained on.
        found: every row with its results, which have ``date`` and ``machine``.
    """
    every = [result for _, results in found for result in results]
    baseline = [
        result["psnr_y_db"]
        for row, results in found
        for result in results
        if row.key == BASELINE and "psnr_y_db" in result
    ]
    header = HEADER.format(
        origin=origin(run, pictures, every),
        iterations=run.iterations,
        batch=run.batch,
        patch=run.patch,
    )
    return header + "".join(table_line(row, results, baseline) + "\n" for row, results in found)


HEADER = """# Ablations

Made by `make ablations DATA=DIR` (`sr-train ablate`), which without DATA takes the 12 pictures that
come with the sources; each line changes one thing of the baseline. C=16,
{iterations} iterations, batch {batch}, LR crops of {patch} pixels; PSNR-Y on whole source pictures
held out of the training set (Set5 and Set14 are not looked at), mean ± standard deviation over the
seeds. 'No difference seen' means less than two pooled standard deviations of the seeds. Runs are
short: what helps late, or big networks, does not show here.

{origin}

| change | iterations | seeds | PSNR-Y, dB | against the baseline |
|---|---|---|---|---|
"""
