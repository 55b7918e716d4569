"""A survey of a data set before training: sizes, sharpness, colour, hardest and dullest crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainer.analysis import gradient_magnitude, high_frequency_share
from trainer.crops import Crop, all_tiles, as_float, by_psnr
from trainer.data import Pair, Progress, load_pair, picture_files, read_manifest
from trainer.errors import DataError
from trainer.page import Section, histogram, picture, plot, write_page

SHOWN = 8
MEASURED = 200


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one picture."""

    sharpness: float
    """Mean Sobel gradient of the grey picture in [0, 1]."""
    fine_detail: float
    """Share of the energy above the Nyquist frequency of LR."""
    bicubic_psnr_y_db: float
    colourfulness: float
    """Hasler and Suesstrunk 2003, on 0..255: 0 is grey, above 60 is vivid."""
    mean_rgb: tuple[float, float, float]


def picture_sizes(files: list[Path]) -> list[tuple[int, int]]:
    """(width, height) of each file, from its header. Raises DataError that names a bad file."""
    sizes = []
    for path in files:
        try:
            with Image.open(path) as opened:
                sizes.append(opened.size)
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} cannot be read as a picture ({error}); remove it") from error
    return sizes


def colourfulness(rgb: Tensor) -> float:
    """(3, H, W) uint8 -> Hasler and Suesstrunk's M3."""
    r, g, b = rgb.double()
    rg, yb = r - g, (r + g) / 2 - b
    spread = torch.hypot(rg.std(), yb.std())
    return float(spread + 0.3 * torch.hypot(rg.mean(), yb.mean()))


def facts_of(pair: Pair, tiles: list[Crop]) -> Facts:
    """Measures one picture; ``tiles`` are its own."""
    hr = as_float(pair.hr)
    red, green, blue = (float(v) for v in pair.hr.double().mean((1, 2)))
    return Facts(
        sharpness=float(gradient_magnitude(hr).mean()),
        fine_detail=high_frequency_share(hr),
        bicubic_psnr_y_db=sum(t.psnr_y_db("bicubic") for t in tiles) / len(tiles),
        colourfulness=colourfulness(pair.hr),
        mean_rgb=(red, green, blue),
    )


def survey(folder: Path, out: Path, progress: Progress = lambda files, _: files) -> None:
    """Writes the page about ``folder``.

    Sizes are of all pictures; the rest is measured on up to 200, evenly spread over the names.

    Raises:
        DataError: names the folder or file.
    """
    files = picture_files(folder)
    sizes = picture_sizes(list(files))
    chosen = list(files)[:: max(1, -(-len(files) // MEASURED))]
    facts: list[Facts] = []
    crops: list[Crop] = []
    for path in progress(chosen, len(chosen)):
        pair = load_pair(path, files[path], 12)
        tiles = all_tiles([pair], {})
        facts.append(facts_of(pair, tiles))
        crops += [by_psnr(tiles, "bicubic")[0], by_psnr(tiles, "bicubic", best_first=True)[0]]
    sections = [
        sizes_section(sizes, _sources(folder, len(files))),
        sharpness_section(facts),
        colour_section(facts),
        crops_section("Hardest crops", "Lowest PSNR-Y of bicubic.", by_psnr(crops, "bicubic")),
        crops_section(
            "Dullest crops",
            "Highest PSNR-Y of bicubic: little to learn from, remove them or draw them less.",
            by_psnr(crops, "bicubic", best_first=True),
        ),
    ]
    lead = f"{len(files)} pictures, {len(chosen)} of them measured."
    write_page(out, f"Data set {folder.name}", lead, sections)


def _sources(folder: Path, pictures: int) -> str:
    rows = read_manifest(folder)
    if not rows:
        return f"{pictures} (no manifest.csv: every file is taken for a picture of its own)"
    return str(len({(row["repository"], row["path"]) for row in rows}))


def _spread(values: list[float], form: str) -> list[str]:
    return [format(v, form) for v in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]


HEAD = ("", "least", "first quarter", "median", "third quarter", "most")


def sizes_section(sizes: list[tuple[int, int]], sources: str) -> Section:
    """Numbers and sizes."""
    sides = [float(min(size)) for size in sizes]
    megapixels = sum(w * h for w, h in sizes) / 1e6
    text = f"{megapixels:.1f} megapixels in all; source pictures: {sources}."
    table = [HEAD, ("shorter side, pixels", *_spread(sides, ".0f"))]
    return Section("Sizes", text, table)


def sharpness_section(facts: list[Facts]) -> Section:
    """Is there anything to learn in these pictures?"""
    sharp = [f.sharpness for f in facts]
    fine = [100 * f.fine_detail for f in facts]
    hard = [f.bicubic_psnr_y_db for f in facts]
    table = [
        HEAD,
        ("mean gradient", *_spread(sharp, ".3f")),
        ("detail that LR cannot hold, % of energy", *_spread(fine, ".2f")),
        ("PSNR-Y of bicubic, dB", *_spread(hard, ".1f")),
    ]
    plots = [
        plot("Sharpness", histogram(np.array(sharp), "mean gradient")),
        plot("How hard", histogram(np.array(hard), "PSNR-Y of bicubic, dB")),
    ]
    text = "A set whose pictures are soft, or easy for bicubic, teaches little."
    return Section("Sharpness", text, table, [plots])


def colour_section(facts: list[Facts]) -> Section:
    """Casts and greyness."""
    means = np.array([f.mean_rgb for f in facts])
    figure = Figure(figsize=(4.6, 2.6))
    axes = figure.add_subplot()
    for channel, colour in enumerate(("tab:red", "tab:green", "tab:blue")):
        axes.hist(means[:, channel], bins=20, range=(0, 255), histtype="step", color=colour)
    axes.set_xlabel("mean of a picture, grey levels")
    axes.set_ylabel("pictures")
    colourful = [f.colourfulness for f in facts]
    red, green, blue = means.mean(0)
    text = f"Mean of all: R {red:.0f}, G {green:.0f}, B {blue:.0f}."
    table = [HEAD, ("colourfulness (0 is grey, 60 vivid)", *_spread(colourful, ".0f"))]
    plots = [
        plot("Means of R, G and B", figure),
        plot("Colourfulness", histogram(np.array(colourful), "colourfulness")),
    ]
    return Section("Colour", text, table, [plots])


def crops_section(title: str, text: str, crops: list[Crop]) -> Section:
    """Crops in HR, with the PSNR-Y of bicubic."""
    shown = [
        picture(f"{crop.name}, {crop.psnr_y_db('bicubic'):.1f} dB", crop.hr, 180)
        for crop in crops[:SHOWN]
    ]
    return Section(title, text, rows=[shown])
