"""Is the CPU engine faster than plain PyTorch? Both in one run, repeats interleaved.

PyTorch runs as a person would write it: eager, FP32, NCHW, as many threads, from bytes to bytes
(`torch`), and the network alone without any conversion (`bare`). The engine always
runs from bytes to bytes, guard off, one frame in flight, on the backend that `auto` takes; ONNX
Runtime runs beside it (`ort`). Prints a table, then one line of JSON.

    python bench/against_torch.py --sizes 256 512 --repeats 9 --require 2.5
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from engine.backends.base import Lane, LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend, available_cores, processor_name
from engine.command_line import parse_command_line
from engine.export import load_network
from engine.gate_frames import natural_frames
from engine.models import load_model
from engine.network import Network
from engine.selection import BackendName, open_backend

RUNS_PER_TURN = 3


@dataclass(frozen=True, slots=True)
class Options:
    """Compare a lane of the engine with PyTorch eager FP32."""

    model: str = "fast"
    """A model name or the path of a weights file."""
    backend: BackendName = "auto"
    """Which backend is the engine; ONNX Runtime runs beside it anyway."""
    sizes: tuple[int, ...] = (256, 512)
    """Sides of the square input frames in pixels."""
    repeats: int = 9
    """Turns of each, of three timed runs; the median counts."""
    threads: int | None = None
    """Cores for each side; all of them when not given."""
    require: float | None = None
    """Exit 1 when the engine is less than this many times as fast at any size."""


@dataclass(frozen=True, slots=True)
class Row:
    """One size."""

    size: int
    backend: str
    engine_ms: float
    onnxruntime_ms: float
    torch_ms: float
    torch_network_only_ms: float
    ratio: float
    ratio_of_onnxruntime: float
    ratio_to_network_only: float
    max_difference: int


@torch.inference_mode()
def torch_bytes(network: Network, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) -> (4H, 4W, 3) uint8."""
    x = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    levels = (network(x) * 255).clamp(0, 255).round().to(torch.uint8)
    return levels[0].permute(1, 2, 0).contiguous().numpy()


def interleaved_ms(contestants: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Milliseconds of every run of each, in turns so that a busy machine is equally unfair.

    A turn is a few runs of which the first is not counted: PyTorch's idle threads spin for a
    while and would slow down whoever comes next.
    """
    times: list[list[float]] = [[] for _ in contestants]
    for _turn in range(repeats):
        for contestant, taken in zip(contestants, times, strict=True):
            for run in range(1 + RUNS_PER_TURN):
                start = time.perf_counter()
                contestant()
                if run:
                    taken.append((time.perf_counter() - start) * 1e3)
    return times


def compare(options: Options, size: int, threads: int) -> Row:
    """Times both sides on a natural frame of ``size`` x ``size``."""
    model = load_model(options.model, allow_untrained=True)
    network = load_network(model)
    frame = next(pixels for _, pixels in natural_frames(size, size))
    x = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    spec = LaneSpec(size, size)
    with (
        open_backend(
            options.backend, options.model, threads=threads, allow_untrained=True
        ) as backend,
        OnnxRuntimeBackend(model, threads) as onnx_runtime,
    ):
        name = backend.info.name
        (lane,), (other,) = backend.open_lanes(spec, 1), onnx_runtime.open_lanes(spec, 1)

        def network_only() -> torch.Tensor:
            with torch.inference_mode():
                return network(x)

        difference = np.abs(one_frame(lane, frame).astype(np.int16) - torch_bytes(network, frame))
        contestants = [
            lambda: one_frame(lane, frame),
            lambda: one_frame(other, frame),
            lambda: torch_bytes(network, frame),
            network_only,
        ]
        ours, ort, theirs, bare = map(
            statistics.median, interleaved_ms(contestants, options.repeats)
        )
    return Row(
        size=size,
        backend=name,
        engine_ms=ours,
        onnxruntime_ms=ort,
        torch_ms=theirs,
        torch_network_only_ms=bare,
        ratio=theirs / ours,
        ratio_of_onnxruntime=theirs / ort,
        ratio_to_network_only=bare / ours,
        max_difference=int(difference.max()),
    )


def one_frame(lane: Lane, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame upscaled; it belongs to the lane."""
    lane.start(frame)
    result = lane.finish()
    assert isinstance(result, np.ndarray)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Prints the comparison; 1 when ``--require`` is not met."""
    options = parse_command_line(
        "bench/against_torch.py",
        arguments,
        lambda words: tyro.cli(
            Options, prog="bench/against_torch.py", args=words, description=__doc__
        ),
    )
    threads = options.threads or available_cores()
    torch.set_num_threads(threads)
    rows = [compare(options, size, threads) for size in options.sizes]
    table = Table(
        "size",
        "backend",
        "engine ms",
        "ort ms",
        "torch ms",
        "bare ms",
        "times",
        "ort times",
        "bare",
        "max diff",
    )
    for row in rows:
        table.add_row(
            f"{row.size}x{row.size}",
            row.backend,
            f"{row.engine_ms:.1f}",
            f"{row.onnxruntime_ms:.1f}",
            f"{row.torch_ms:.1f}",
            f"{row.torch_network_only_ms:.1f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_of_onnxruntime:.2f}",
            f"{row.ratio_to_network_only:.2f}",
            str(row.max_difference),
        )
    Console(width=110).print(table)
    slowest = min(row.ratio for row in rows)
    passed = options.require is None or slowest >= options.require
    proof = {
        "schema": 1,
        "device": f"{processor_name()} ({threads} threads)",
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
        "model": options.model,
        "repeats": options.repeats,
        "require": options.require,
        "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in rows],
        "verdict": "PASS" if passed else "FAIL",
    }
    print(json.dumps(proof))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
