"""How many GPUs and nodes for N streams, from what a run of bench/fps.py proved. Measures nothing.

    python -m bench.sizing --proof bench/results/t4-1024-nv12.json --streams 10 100 1000

A stream is video of the proof's size, without end, at ``--fps``. The speed that counts is the file
one where the proof has it (decode and encode included), else the pipeline one (frames in memory to
frames in memory), which says so. A GPU is loaded to ``--load`` of it. Network bytes are arithmetic:
raw frames as nv12 (1.5 bytes a pixel), coded ones at ``--bits-per-pixel``, which is an assumption.
Prints a table, then one line of JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from engine.contract import SCALE

NV12_BYTES = 1.5
"""Of a pixel."""


class SizingError(Exception):
    """The proof cannot be used; one sentence."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Sizes a cluster from a proof."""

    proof: Path
    """JSON file that bench/fps.py --save wrote."""
    streams: tuple[int, ...] = (1, 10, 100, 1000)
    fps: float = 60
    """Frames a second of a stream."""
    load: float = 0.8
    """How much of its proven speed a GPU is asked for."""
    gpus_per_node: int = 4
    bits_per_pixel: float = 0.08
    """Of the coded result, an assumption: 81 Mbit/s for 4096x4096 at 60 fps."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What N streams need."""

    streams: int
    gpus: int
    nodes: int
    raw_gbit_per_second: float
    """If upscaled frames crossed the network as nv12."""
    coded_gbit_per_second: float
    """If they cross as video."""


def read_proof(path: Path) -> dict[str, Any]:
    """The proof in ``path``, alone or with its details. Raises SizingError."""
    try:
        content = json.loads(path.read_text())
        proof: dict[str, Any] = content.get("proof", content)
        found = {name: proof[name] for name in ("size", "device", "fps_pipeline", "fps_file")}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SizingError(f"{path} is no proof of bench/fps.py ({error}).") from None
    if found["fps_pipeline"] is None and found["fps_file"] is None:
        raise SizingError(f"{path} has no speed that includes the way in and out of the GPU.")
    return found


def proven_fps(proof: dict[str, Any]) -> tuple[float, str]:
    """Frames a second of one GPU, and which speed that is."""
    if proof["fps_file"] is not None:
        return float(proof["fps_file"]), "file to file"
    return float(proof["fps_pipeline"]), "frame to frame, without decoding and encoding"


def size_for(streams: int, gpu_fps: float, pixels: int, arguments: Arguments) -> Sizing:
    """What ``streams`` need.

    A GPU that carries at least one stream is given whole ones, because a live stream stays where it
    is. One that carries none works on segments together with others, which suits files only.

    Args:
        streams: at ``arguments.fps`` each.
        gpu_fps: of one GPU, proven.
        pixels: of an upscaled frame.
        arguments: the rest.
    """
    usable = gpu_fps * arguments.load
    each = math.floor(usable / arguments.fps)
    gpus = math.ceil(streams / each) if each else math.ceil(streams * arguments.fps / usable)
    pixels_per_second = streams * arguments.fps * pixels
    return Sizing(
        streams=streams,
        gpus=gpus,
        nodes=math.ceil(gpus / arguments.gpus_per_node),
        raw_gbit_per_second=round(pixels_per_second * NV12_BYTES * 8 / 1e9, 3),
        coded_gbit_per_second=round(pixels_per_second * arguments.bits_per_pixel / 1e9, 3),
    )


def report(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Prints the table and returns what the JSON says. Raises SizingError."""
    proof = read_proof(arguments.proof)
    gpu_fps, kind = proven_fps(proof)
    width, height = (int(side) * SCALE for side in proof["size"].split("x"))
    sizings = [size_for(number, gpu_fps, width * height, arguments) for number in arguments.streams]
    each = math.floor(gpu_fps * arguments.load / arguments.fps)
    console.print(
        f"{proof['device']}: {gpu_fps:.1f} fps {kind}; {each} streams of {proof['size']} at "
        f"{arguments.fps:g} fps per device, {arguments.load:.0%} loaded"
    )
    table = Table("streams", "devices", "nodes", "raw Gbit/s", "coded Gbit/s")
    for sizing in sizings:
        table.add_row(*(f"{value:g}" for value in asdict(sizing).values()))
    console.print(table)
    return {
        "schema": 1,
        "proof": str(arguments.proof),
        "device": proof["device"],
        "fps": gpu_fps,
        "fps_kind": kind,
        "streams_per_device": each,
        "sizes": [asdict(sizing) for sizing in sizings],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; 2 for a proof that cannot be used."""
    chosen = tyro.cli(Arguments, args=arguments, prog="bench.sizing")
    try:
        found = report(chosen, Console(stderr=True))
    except SizingError as error:
        print(f"sizing: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
