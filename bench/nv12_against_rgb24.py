"""Is nv12 as good as rgb24, and faster? Both in one run, on the CPU, repeats interleaved.

Quality: PSNR-Y (BT.601, crop 4) of both paths against ground truth, for every picture of a folder
with `HR/NAME.png` and `LRbicx4/NAMEx4.png`. The nv12 path gets the low-resolution picture as 4:2:0,
as decoders give it; the rgb24 path gets the same converted to RGB, and the picture itself: the
colours that 4:2:0 has lost are no path's fault.
Speed: medians of a whole lane, bytes to bytes, and the median ratio of neighbouring runs. Prints a
table, then one line of JSON.

    python -m bench.nv12_against_rgb24 --pictures ../shared/data/val/Set14
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.against_torch import interleaved_ms
from engine.backends.base import LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend, available_cores, processor_name
from engine.colour import colour_map
from engine.command_line import parse_command_line
from engine.frames import Bytes, Nv12
from engine.gate_frames import natural_frames, to_nv12, to_rgb24
from engine.models import Model, load_model
from engine.upscaler import Upscaler

MATRIX = "bt601"
MARGIN = 4
"""Pixels at the border that PSNR does not count."""


@dataclass(frozen=True, slots=True)
class Options:
    """Compare the nv12 path with the rgb24 path."""

    pictures: Path | None = None
    """Folder with HR and LRbicx4; quality is skipped without it."""
    model: str = "fast"
    """A model name or the path of a weights file."""
    sizes: tuple[int, ...] = (256, 512)
    """Sides of the square frames that are timed."""
    repeats: int = 7
    """Timed runs of each; the median counts."""
    threads: int | None = None
    """Cores; all of them when not given."""


def luma(pixels: Bytes) -> NDArray[np.float64]:
    """(H, W, 3) -> (H, W): BT.601 Y in 16..235, not rounded."""
    colours = colour_map(MATRIX, full_range=False)
    levels: NDArray[np.float64] = pixels @ (colours.from_rgb[0] / 255) + colours.offset[0]
    return levels


def psnr_db(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """PSNR without the border."""
    inside = slice(MARGIN, -MARGIN)
    squares = np.mean((found[inside, inside] - truth[inside, inside]) ** 2)
    return 10 * math.log10(255**2 / squares)


def quality(upscaler: Upscaler, folder: Path) -> list[tuple[str, float, float, float]]:
    """(name, PSNR-Y of rgb24, of nv12, of rgb24 from the same 4:2:0) of every picture."""
    rows = []
    for path in sorted((folder / "HR").glob("*.png")):
        small = np.array(Image.open(folder / "LRbicx4" / f"{path.stem}x4.png").convert("RGB"))
        small_nv12 = to_nv12(small, MATRIX)
        rgb = upscaler.upscale(small)
        planes = upscaler.upscale(small_nv12, matrix=MATRIX)
        same = upscaler.upscale(to_rgb24(small_nv12, MATRIX))
        if not isinstance(planes, Nv12) or isinstance(rgb, Nv12) or isinstance(same, Nv12):
            raise TypeError("the engine gave a frame of another format")
        height, width = planes.y.shape
        truth = luma(np.array(Image.open(path).convert("RGB"))[:height, :width])
        found = planes.y.astype(np.float64)
        a, b, c = (psnr_db(y, truth) for y in (luma(rgb), found, luma(same)))
        rows.append((path.stem, a, b, c))
    return rows


def speed(model: Model, size: int, options: Options) -> tuple[float, float, float]:
    """Median ms of rgb24 and of nv12 for a frame of ``size`` x ``size``, and nv12 over rgb24."""
    frame = next(pixels for _, pixels in natural_frames(size, size))
    planes = to_nv12(frame, MATRIX)
    with OnnxRuntimeBackend(model, options.threads) as backend:
        rgb_lane = backend.open_lanes(LaneSpec(size, size), 1)[0]
        nv12_lane = backend.open_lanes(LaneSpec(size, size, "nv12", MATRIX), 1)[0]

        def run_rgb24() -> None:
            rgb_lane.start(frame)
            rgb_lane.finish()

        def run_nv12() -> None:
            nv12_lane.start(planes)
            nv12_lane.finish()

        rgb24, nv12 = interleaved_ms([run_rgb24, run_nv12], options.repeats)
    ratio = statistics.median(b / a for a, b in zip(rgb24, nv12, strict=True))
    return statistics.median(rgb24), statistics.median(nv12), ratio


def main(arguments: list[str] | None = None) -> int:
    """Prints both comparisons."""
    options = parse_command_line(
        "bench/nv12_against_rgb24.py",
        arguments,
        lambda words: tyro.cli(
            Options, prog="bench/nv12_against_rgb24.py", args=words, description=__doc__
        ),
    )
    if options.pictures is not None and not any((options.pictures / "HR").glob("*.png")):
        print(
            f"bench/nv12_against_rgb24.py: {options.pictures} has no HR/*.png; give a folder with "
            "HR and LRbicx4 in it",
            file=sys.stderr,
        )
        return 2
    model = load_model(options.model, allow_untrained=True)
    table = Table("", "rgb24", "nv12", "nv12 - rgb24", "rgb24 of 4:2:0", "nv12 - that")
    qualities: list[tuple[str, float, float, float]] = []
    if options.pictures is not None:
        with Upscaler(OnnxRuntimeBackend(model, options.threads)) as upscaler:
            qualities = quality(upscaler, options.pictures)
        means = (float(np.mean([row[i] for row in qualities])) for i in (1, 2, 3))
        mean = ("mean PSNR-Y dB", *means)
        for name, rgb24, nv12, same in [*qualities, mean]:
            cells = (f"{rgb24:.3f}", f"{nv12:.3f}", f"{nv12 - rgb24:+.3f}")
            table.add_row(name, *cells, f"{same:.3f}", f"{nv12 - same:+.3f}")
    timings = {size: speed(model, size, options) for size in options.sizes}
    for size, (rgb24, nv12, ratio) in timings.items():
        percent = f"{100 * (ratio - 1):+.1f} %"
        table.add_row(f"{size}x{size} ms", f"{rgb24:.1f}", f"{nv12:.1f}", percent)
    Console().print(table)
    result = {
        "schema": 1,
        "device": f"{processor_name()} ({options.threads or available_cores()} threads)",
        "model": options.model,
        "psnr_y_db": {
            name: {"rgb24": rgb24, "nv12": nv12, "rgb24_of_420": same}
            for name, rgb24, nv12, same in qualities
        },
        "median_ms": {
            str(size): {"rgb24": a, "nv12": b, "ratio": ratio}
            for size, (a, b, ratio) in timings.items()
        },
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
