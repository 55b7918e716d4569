"""``sr-train evaluate``: which methods are compared, and the table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.evaluate import (
    Enlarge,
    bicubic_enlarge,
    enlarge_with,
    evaluate,
    read_pairs,
)
from trainer.flicker import read_moments, score_clip
from trainer.start import network_of

COLUMNS = {
    "psnr_y_db": "PSNR-Y",
    "ssim_y": "SSIM-Y",
    "psnr_rgb_db": "PSNR-RGB",
    "ssim_rgb": "SSIM-RGB",
}


def methods_of(weights: Sequence[str], tta: bool) -> dict[str, Enlarge]:
    """Bicubic, the weights as they are, and what was asked for beyond that, by name."""
    networks = [network_of(name) for name in weights]
    methods: dict[str, Enlarge] = {"bicubic": bicubic_enlarge}
    for name, network in zip(weights, networks, strict=True):
        methods[name] = enlarge_with([network])
    if len(networks) > 1:
        methods["averaged"] = enlarge_with(networks)
    if tta:
        methods["averaged, x8" if len(networks) > 1 else "x8"] = enlarge_with(networks, True)
    return methods


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to measure on."""

    hr: Path
    """Video file or folder of frames."""
    lr: Path | None
    """The same in a quarter of the size, coded; made by reduction when there is none."""
    frames: int
    """How many are measured."""


def measure(
    weights: Sequence[str], data: Path | None, clip: Clip | None, tta: bool
) -> dict[str, Any]:
    """Everything that was asked for, as JSON values."""
    methods = methods_of(weights, tta)
    result: dict[str, Any] = {"weights": list(weights)}
    if data is not None:
        result |= evaluate(methods, read_pairs(data))
    if clip is not None:
        scores = score_clip(methods, read_moments(clip.hr, clip.lr, clip.frames))
        result["clip"] = {
            method: {key: round(value, 5) for key, value in row.items()}
            for method, row in scores.items()
        }
    return result


def show(result: dict[str, Any]) -> None:
    """Prints the tables."""
    console = Console()
    if "mean" in result:
        console.print(_scores_table(result))
    if "clip" in result:
        table = Table("method", "PSNR-Y", "flicker, grey levels")
        for method, row in result["clip"].items():
            psnr = f"{row['psnr_y_db']:.2f}" if "psnr_y_db" in row else "-"
            table.add_row(method, psnr, f"{row['flicker_grey_levels']:.3f}")
        console.print(table)


def _scores_table(result: dict[str, Any]) -> Table:
    table = Table("picture", "method")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for picture, methods in [*result["pictures"].items(), ("mean", result["mean"])]:
        table.add_section()
        for method, scores in methods.items():
            cells = [f"{scores[key]:.{2 if 'psnr' in key else 4}f}" for key in COLUMNS]
            table.add_row(picture, method, *cells)
            picture = ""
    return table
