"""``python -m server.demo``: the bundled clip through the real path, and what it is worth.

Decodes, upscales and encodes exactly as ``sr-upscale`` does, then decodes the file that came out
and compares it with the clip's ground truth, so that the figures include the codec's loss.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from engine.command_line import parse_command_line
from engine.errors import EngineError
from engine.frames import Bytes, Nv12
from engine.selection import BackendName, cpu_backend_name, open_backend
from engine.upscaler import Upscaler
from server.beside import write_whole, written_beside
from server.comparison import Column, busiest_places, psnr_y_db, side_by_side
from server.interrupts import Interrupted, Interrupts
from server.manifest import Manifest
from server.media.bicubic import bicubic_x4
from server.media.decode import DecodeOptions, Decoder
from server.media.errors import Cancelled, EncodeError, MediaError
from server.media.limits import command_line_limits
from server.progress import video_bar
from server.session import upscale_video

CLIPS = Path(__file__).resolve().parents[1] / "tests" / "data" / "demo"
INPUT, OUTPUT, PICTURE, MANIFEST = "input.mp4", "output_x4.mp4", "comparison.png", "manifest.json"
CROP_PIXELS, CROPS = 160, 2


@dataclass(frozen=True, slots=True)
class Arguments:
    """What can be changed about the demo."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("build/demo")
    """Where the four files go; results of an earlier run are replaced."""
    clip: Annotated[Path, tyro.conf.arg(metavar="FILE")] = CLIPS / "city_256x256.mp4"
    """The video to upscale."""
    truth: Annotated[Path, tyro.conf.arg(metavar="FILE")] = CLIPS / "city_1024x1024.mp4"
    """The same frames, four times larger."""
    backend: BackendName = field(default_factory=cpu_backend_name)
    """What runs the network; by default what ``auto`` takes on a CPU."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = "fast"
    """fast, balanced, quality or the path of a weights file."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over all frames, in dB."""

    frames: int
    bicubic_psnr_y_db: float
    ours_psnr_y_db: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; 2 with one sentence on stderr when something is missing or wrong."""
    chosen = parse_command_line(
        "python -m server.demo",
        arguments,
        lambda words: tyro.cli(Arguments, prog="python -m server.demo", args=words),
    )
    console = Console(highlight=False, soft_wrap=True)
    interrupts = Interrupts()
    try:
        with interrupts:
            run(chosen, console, interrupts)
    except (MediaError, EncodeError, EngineError, ValueError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"demo: error: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    except (Interrupted, Cancelled):
        print("demo: interrupted", file=sys.stderr)
        return interrupts.exit_code
    return 0


def run(chosen: Arguments, console: Console, interrupts: Interrupts) -> Figures:
    """Leaves exactly the four files in ``chosen.out`` and prints the figures.

    Raises:
        ValueError: other files are in the way, or clip and truth do not fit.
        MediaError, EncodeError, EngineError, OSError: from the stages.
        Interrupted, Cancelled: a signal came.
    """
    if not (chosen.clip.is_file() and chosen.truth.is_file()):
        raise ValueError(
            "the demo's clips are not here; run it in a source checkout or name --clip, --truth."
        )
    _clear(chosen.out)
    shutil.copyfile(chosen.clip, chosen.out / INPUT)
    manifest = _upscale(chosen, console, interrupts)
    figures, columns = _compare(chosen, manifest)
    places = busiest_places(columns[-1].frame, CROP_PIXELS, CROPS)
    with written_beside(chosen.out / PICTURE) as partial:
        side_by_side(columns, places, CROP_PIXELS).save(partial, "PNG", optimize=True)
    record = manifest.to_dict() | {"demo": _record(figures, chosen)}
    write_whole(chosen.out / MANIFEST, (json.dumps(record, indent=2) + "\n").encode())
    _tell(figures, manifest, chosen.out, console)
    return figures


def _clear(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    strangers = {path.name for path in out.iterdir()} - {INPUT, OUTPUT, PICTURE, MANIFEST}
    if strangers:
        raise ValueError(f"{out} holds other files ({min(strangers)}, …); name an empty folder.")
    for path in out.iterdir():
        path.unlink()


def _upscale(chosen: Arguments, console: Console, interrupts: Interrupts) -> Manifest:
    with Upscaler(open_backend(chosen.backend, chosen.model)) as upscaler:
        info = upscaler.info
        console.print(f"{info.name} {info.version}, {info.device}, model {info.model}")
        with video_bar(console, INPUT) as on_progress, interrupts.deferred():
            return upscale_video(
                chosen.out / INPUT,
                chosen.out / OUTPUT,
                upscaler,
                on_progress=on_progress,
                cancelled=interrupts.asked,
            )


def _compare(chosen: Arguments, manifest: Manifest) -> tuple[Figures, list[Column]]:
    """PSNR-Y over all frames, and the middle frame in every version."""
    bicubic: list[float] = []
    ours: list[float] = []
    middle: list[Bytes] = []
    clips = (chosen.out / INPUT, chosen.out / OUTPUT, chosen.truth)
    with (
        closing(_frames(clips[0])) as inputs,
        closing(_frames(clips[1])) as outputs,
        closing(_frames(clips[2])) as truths,
    ):
        for index, versions in enumerate(zip_longest(inputs, outputs, truths)):
            small, large, truth = versions
            if truth is None or large is None or large.shape != truth.shape:
                raise ValueError(f"{chosen.truth.name} does not have the frames of the result.")
            enlarged = bicubic_x4(small)
            bicubic.append(psnr_y_db(enlarged, truth))
            ours.append(psnr_y_db(large, truth))
            if index == manifest.frames_out // 2:
                middle = [small, enlarged, large, truth]
    figures = Figures(len(ours), float(np.mean(bicubic)), float(np.mean(ours)))
    small, enlarged, large, truth = middle
    model = manifest.backend["model"] or manifest.backend["name"]
    return figures, [
        Column("input", f"{small.shape[1]}x{small.shape[0]}, pixels repeated", small),
        Column("bicubic", f"PSNR-Y {figures.bicubic_psnr_y_db:.2f} dB", enlarged),
        Column(f"ours ({model})", f"PSNR-Y {figures.ours_psnr_y_db:.2f} dB", large),
        Column("ground truth", f"{truth.shape[1]}x{truth.shape[0]}", truth),
    ]


def _frames(path: Path) -> Generator[Bytes]:
    with Decoder(path, DecodeOptions(command_line_limits())) as decoder:
        for decoded in decoder:
            assert not isinstance(decoded.frame, Nv12)  # only rgb24 was asked for
            yield decoded.frame


def _record(figures: Figures, chosen: Arguments) -> dict[str, Any]:
    return {
        "frames_compared": figures.frames,
        "bicubic_psnr_y_db": round(figures.bicubic_psnr_y_db, 3),
        "ours_psnr_y_db": round(figures.ours_psnr_y_db, 3),
        "convention": "BT.601 luma of RGB, 4 pixels shaved off, 8 bits, mean over frames; "
        "ours is decoded from the encoded file",
        "truth": chosen.truth.name,
    }


def _tell(figures: Figures, manifest: Manifest, out: Path, console: Console) -> None:
    gain = figures.ours_psnr_y_db - figures.bicubic_psnr_y_db
    console.print(
        f"{manifest.frames_out} frames in {manifest.seconds:.1f} s: {manifest.fps:.1f} fps"
    )
    console.print(f"PSNR-Y  bicubic {figures.bicubic_psnr_y_db:.2f} dB")
    console.print(f"PSNR-Y  ours    {figures.ours_psnr_y_db:.2f} dB  ({gain:+.2f} dB)")
    console.print(f"look at {out / PICTURE} and play {out / OUTPUT}")


if __name__ == "__main__":
    sys.exit(main())
