"""The report of a run: what it learnt, on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.network import Network
from trainer import analysis
from trainer import checkpoint as ckpt
from trainer.augment import AUGMENTATIONS, Augment, Batch
from trainer.crops import Crop, all_tiles, as_float, by_detail, by_psnr
from trainer.data import Pair, PictureSet, Progress, load_folder, read_manifest
from trainer.degrade import DegradedCopies, degraded_validation
from trainer.errors import DataError
from trainer.evaluate import Enlarge, bicubic_enlarge, enlarge_with, evaluate
from trainer.loop import WEIGHTS
from trainer.page import Section, Shown, curves, heat, picture, plot, signed, write_page
from trainer.sampling import Cropping, sample_batch
from trainer.training import CHECKPOINT, step_generator
from trainer.weights import load_network

SHOWN = 4
DRAWS = 32
"""At most so many, until an augmentation has changed the crop (some crops are grey)."""
PERIODS = (12.0, 7.0)
ANGLES = [7.5 * index for index in range(24)]


def report_folder(run: Path, folder: Path, out: Path, progress: Progress) -> None:
    """Reads the data set of ``run`` again and writes its page.

    Raises:
        DataError: ``folder`` is not what the run was trained on.
    """
    facts = ckpt.load(run / CHECKPOINT).facts
    recipe = facts["recipe"]
    assert isinstance(recipe, dict)
    patch, held_out = int(recipe["patch"]), int(recipe["validation_pictures"])
    pictures = load_folder(folder, patch, held_out, progress)
    if pictures.sha256 != facts["dataset_sha256"]:
        raise DataError(f"{folder} is not what {run} was trained on; give that folder with --data")
    write_report(run, pictures, out, aerial_names(folder))


def aerial_names(folder: Path) -> frozenset[str]:
    """Pictures taken from the air, as the manifest of a data set says."""
    rows = read_manifest(folder)
    return frozenset(row["file"] for row in rows if row.get("category") == "aerial")


def write_report(run: Path, pictures: PictureSet, out: Path, aerial: frozenset[str]) -> None:
    """Writes the page of the run in folder ``run``.

    Args:
        pictures: the data set of the run; its validation pictures are shown.
        aerial: names of the pictures taken from the air, on which edge directions are checked.

    Raises:
        CheckpointError, ModelError: ``run`` holds no checkpoint or weights.
    """
    saved = ckpt.load(run / CHECKPOINT)
    network = load_network(str(run / WEIGHTS))
    recipe = saved.facts["recipe"]
    assert isinstance(recipe, dict)
    pairs = pictures.validation
    degraded = recipe.get("degradation") == "video"
    if degraded:
        pairs = degraded_validation(pairs)
    methods: dict[str, Enlarge] = {"ours": enlarge_with([network])}
    crops = all_tiles(pairs, methods)
    busiest = by_detail(crops)[:SHOWN]
    worst = by_psnr(crops, "ours")[:SHOWN]
    from_the_air = [p for p in pictures.train + pictures.validation if p.name in aerial][:12]
    sections = [
        scores_section(methods, pairs),
        curves_section(saved.facts["history"]),
        crops_section("Before and after", "The busiest crop of a held-out picture.", busiest),
        crops_section("Where it is worst", "The crops with the lowest PSNR-Y.", worst),
        gradients_section(busiest),
        paths_section(network, busiest),
        direction_section(methods["ours"], from_the_air or pairs, bool(from_the_air)),
        augmentation_section(pictures.train),
        *([degradation_section(pictures.train[0])] if degraded else []),
        Section("Recipe", table=[("setting", "value"), *_settings(recipe)]),
    ]
    lead = (
        f"{network.config.layers} convolutions, {network.config.width} channels, "
        f"{network.config.macs_per_pixel:,} multiply-accumulates per LR pixel, "
        f"iteration {saved.facts['step']}, data set {str(pictures.sha256)[:12]}."
    )
    write_page(out, f"Training run {run.name}", lead, sections)


def _settings(recipe: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in recipe.items():
        if isinstance(value, dict):
            rows += _settings(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, json.dumps(value)))
    return rows


def scores_section(methods: dict[str, Enlarge], pairs: list[Pair]) -> Section:
    """Means over the held-out pictures."""
    means = evaluate({"bicubic": bicubic_enlarge} | methods, pairs)["mean"]
    assert isinstance(means, dict)
    rows = [("method", "PSNR-Y dB", "SSIM-Y", "PSNR-RGB dB", "SSIM-RGB")]
    for method, s in means.items():
        rgb = f"{s['psnr_rgb_db']:.2f}", f"{s['ssim_rgb']:.4f}"
        rows.append((method, f"{s['psnr_y_db']:.2f}", f"{s['ssim_y']:.4f}", *rgb))
    return Section("Scores", f"Means over {len(pairs)} held-out crops.", rows)


def curves_section(history: Any) -> Section:
    """Loss and PSNR-Y at each validation."""
    steps = [row["step"] for row in history]
    loss = curves({"loss": (steps, [r["loss"] for r in history])}, "iteration", "loss", log=True)
    psnr = curves({"PSNR-Y": (steps, [r["psnr_y_db"] for r in history])}, "iteration", "PSNR-Y, dB")
    text = "At each validation; the loss jumps where a stage has another one. TensorBoard has more."
    return Section("Curves", text, rows=[[plot("Loss", loss), plot("Validation", psnr)]])


def crops_section(title: str, text: str, crops: Sequence[Crop]) -> Section:
    """LR, bicubic, ours and HR side by side."""
    rows = []
    for crop in crops:
        bicubic, ours = crop.psnr_y_db("bicubic"), crop.psnr_y_db("ours")
        rows.append(
            [
                picture(f"{crop.name}, before", crop.lr),
                picture(f"bicubic, {bicubic:.2f} dB", crop.enlarged["bicubic"]),
                picture(f"ours, {ours:.2f} dB", crop.enlarged["ours"]),
                picture("HR", crop.hr),
            ]
        )
    return Section(title, text, rows=rows)


def gradients_section(crops: Sequence[Crop]) -> Section:
    """Sobel magnitude and its variance per patch: of HR, bicubic and ours on one scale."""
    rows: list[list[Shown]] = []
    for crop in crops[:2]:
        named = {"HR": crop.hr, **crop.enlarged}
        edges = {name: analysis.gradient_magnitude(as_float(x)) for name, x in named.items()}
        maps = {name: analysis.gradient_variance_map(as_float(x)) for name, x in named.items()}
        top = float(edges["HR"].quantile(0.995)), float(maps["HR"].max())
        rows.append([heat(f"gradient, {name}", v, top[0]) for name, v in edges.items()])
        rows.append([heat(f"variance, {name}", v, top[1]) for name, v in maps.items()])
    text = (
        "Bright is a strong gradient, or a strong variance of it within a 16x16 patch; "
        "each row has one scale. A blurred picture is darker than HR."
    )
    return Section("Gradients", text, rows=rows)


def paths_section(network: Network, crops: Sequence[Crop]) -> Section:
    """The shortcut path alone and the body alone, their frequencies and where the body acts."""
    rows: list[list[Shown]] = []
    head = ("crop", "high-frequency share: HR", "shortcut", "body", "body against variance")
    table: list[tuple[str, ...]] = [head]
    for crop in crops:
        paths = analysis.split_paths(network, as_float(crop.lr))
        shares = [
            analysis.high_frequency_share(x)
            for x in (as_float(crop.hr), paths.shortcut, paths.body)
        ]
        related = analysis.correlation(
            analysis.patch_energy(paths.body), analysis.gradient_variance_map(as_float(crop.hr))
        )
        table.append((crop.name, *(f"{100 * s:.1f} %" for s in shares), f"{related:+.2f}"))
        shortcut = (paths.shortcut[0].clamp(0, 1) * 255).byte()
        body = paths.body - paths.body.mean((2, 3), keepdim=True)
        rows.append(
            [
                picture("shortcut path alone", shortcut),
                signed("body alone less its mean, 4 times as strong", body[0]),
                heat("energy of the body per patch", analysis.patch_energy(paths.body)),
                heat("gradient variance of HR", analysis.gradient_variance_map(as_float(crop.hr))),
            ]
        )
    text = (
        "The two outputs add up to the network's. The shortcut path is linear and can only "
        "interpolate; the body should add what lies above the Nyquist frequency of LR, where "
        "gradients vary. Last column: Pearson's correlation over 16x16 patches."
    )
    return Section("What each path does", text, table, rows)


def direction_section(ours: Enlarge, pairs: list[Pair], from_the_air: bool) -> Section:
    """Edges must not turn: rotated gratings, and real pictures."""
    lines = {}
    for period in PERIODS:
        for name, method in (("bicubic", bicubic_enlarge), ("ours", ours)):
            turns = analysis.grating_turns(method, period, ANGLES)
            lines[f"{name}, period {period:g}"] = (ANGLES, turns)
    figure = curves(lines, "angle of the grating, degrees", "turn, degrees")
    kept: dict[str, float] = {}
    for name, method in (("bicubic", bicubic_enlarge), ("ours", ours)):
        kept[name] = sum(analysis.edge_turn(method(p.lr), p.hr) for p in pairs) / len(pairs)
    kind = "aerial" if from_the_air else "held-out"
    table = [("method", f"mean turn of edges on {len(pairs)} {kind} crops")]
    table += [(name, f"{value:.2f} degrees") for name, value in kept.items()]
    text = "A grating of period 8 HR pixels is at the limit of what LR holds; below, it aliases."
    return Section("Edge direction", text, table, [[plot("Gratings", figure)]])


def augmentation_section(pairs: list[Pair]) -> Section:
    """Each augmentation on the same crops, LR above HR."""
    side = min(24, *(min(p.lr.shape[1:]) for p in pairs))
    batch = sample_batch(pairs, Cropping(2, side), step_generator(0, 0))
    rows = [_both("as it is", batch)]
    rows += [_both(name, _changed(move, batch)) for name, move in AUGMENTATIONS.items()]
    pictures = [shown for row in rows for shown in row]
    text = "The first of two crops after each augmentation: LR, then HR."
    half = (len(pictures) + 5) // 6
    return Section("Augmentation", text, rows=[pictures[6 * i : 6 * i + 6] for i in range(half)])


def _changed(move: Augment, batch: Batch) -> Batch:
    """``batch`` after a draw that changes it: a turn by nothing would show nothing."""
    for seed in range(1, DRAWS + 1):
        after = move((batch[0].clone(), batch[1].clone()), step_generator(seed, 0))
        if not torch.equal(after[0][0], batch[0][0]):
            break
    return after


def degradation_section(pair: Pair) -> Section:
    """A picture of LR and some of the copies that training saw of it."""
    copies = DegradedCopies([pair], seed=0, refresh=1)
    shown = [replace(picture("LR as it is", pair.lr), width=150)]
    for age in range(11):
        shown.append(replace(picture(f"copy {age + 1}", copies.at(0, age)), width=150))
    text = "H.264, JPEG, WebP or nothing, after blur and noise; one copy every 2,000 iterations."
    return Section("Degradation", text, rows=[shown])


def _both(name: str, batch: tuple[Tensor, Tensor]) -> list[Shown]:
    return [
        replace(picture(f"{name}: {kind}", x[0]), width=150)
        for kind, x in zip(("LR", "HR"), batch, strict=True)
    ]
