"""On a GPU: PyTorch FP16 with a CUDA graph per width, and our own lanes around it.

    python bench/gpu_yardstick.py --size 1024 --frames 600

One line of JSON per width and format with ``network_fps_*`` (the graph alone, CUDA events), then
one each with ``pipeline`` (our CUDA lanes, pinned host frame to pinned host frame). What fails
says so in its line, and the next goes on. Not a proof of the product: TensorRT is what ships.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

FP32_FRAMES = 100
"""At most so many, because nobody runs the network like that on a GPU."""


@dataclass(frozen=True, slots=True)
class Options:
    """Measure the yardstick and our pipeline on the GPU at hand."""

    size: int = 1024
    """Side of the input frames in pixels."""
    frames: int = 600
    """Timed frames of each run."""
    models: tuple[str, ...] = ("fast", "balanced", "quality")
    """Which widths."""
    reference_frames: int = 2
    """Outputs compared with FP32 ONNX Runtime, which takes about a second each at 1024x1024."""


def network_fps(model_name: str, form: str, options: Options, half: bool) -> float:
    """Frames per second of the captured graph alone."""
    from bench.torch_network import TorchNetwork, capture
    from engine.backends.base import LaneSpec
    from engine.backends.tensor_shapes import input_shapes, output_shapes
    from engine.models import load_model

    spec = LaneSpec(options.size, options.size, "nv12" if form == "nv12" else "rgb24")
    size = (options.size, options.size)
    shapes = {**input_shapes(spec.format, size), **output_shapes(spec.format, size)}
    tensors = {
        name: torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
        for name, shape in shapes.items()
    }
    dtype = torch.float16 if half else torch.float32
    model = load_model(model_name, allow_untrained=True)
    network = TorchNetwork(model, spec, "cuda", dtype)
    graph = capture(lambda: network.run(tensors, tensors))
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    frames = options.frames if half else min(options.frames, FP32_FRAMES)
    for _ in range(10):
        graph.replay()
    first.record()
    for _ in range(frames):
        graph.replay()
    last.record()
    last.synchronize()
    return frames / (first.elapsed_time(last) / 1000)


def networks(model_name: str, form: str, options: Options) -> dict[str, Any]:
    """The graph alone, in both precisions."""
    return {
        "network_fps_fp16": round(network_fps(model_name, form, options, True), 2),
        "network_fps_fp32": round(network_fps(model_name, form, options, False), 2),
    }


def pipeline(model_name: str, form: str, options: Options) -> dict[str, Any]:
    """Our lanes around the network: speed, overlap, copy rates, and that the frames are right."""
    from bench.fps_cli import buffering
    from bench.measure import Hasher, expect, run_pipeline, worst_psnr_db
    from bench.proof import percentiles
    from bench.torch_network import TorchCudaBackend
    from engine.backends.base import LaneSpec
    from engine.backends.cuda_driver import open_device
    from engine.backends.cuda_thread import GpuThread
    from engine.models import load_model

    spec = LaneSpec(options.size, options.size, "nv12" if form == "nv12" else "rgb24")
    model = load_model(model_name, allow_untrained=True)
    hasher = Hasher()
    with TorchCudaBackend(GpuThread(open_device), model) as backend:
        expected = expect(backend, spec, hasher)
        single = run_pipeline(backend, spec, expected, 1, max(60, options.frames // 4), hasher)
        several = run_pipeline(backend, spec, expected, 3, options.frames, hasher)
        info = backend.info
    hasher.close()
    stages = {name: percentiles(values) for name, values in several.stages_ms.items()}
    pixels = options.size**2
    bytes_out = pixels * (24 if form == "nv12" else 48)
    psnr_db = worst_psnr_db(model, spec, expected, options.reference_frames)
    return {
        "pipeline": {
            **buffering(single, several, 3),
            "stages": stages,
            "d2h_gbytes": round(bytes_out / stages["copy_out"]["p50_ms"] / 1e6, 2),
            "h2d_gbytes": round(bytes_out / 16 / stages["copy_in"]["p50_ms"] / 1e6, 2),
            "wrong_outputs": len(single.wrong) + len(several.wrong),
            "psnr_db": round(psnr_db, 2),
            "psnr_frames": options.reference_frames,
            "async_engines": info.detail["async_engines"],
            "driver": info.detail["driver"],
        }
    }


def tried(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or the error in its place: the others are still worth measuring."""
    try:
        return measure()
    except Exception as error:  # the outermost edge of one measurement
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Prints the lines; 1 when something failed, 2 without a GPU."""
    from engine.command_line import parse_command_line

    options = parse_command_line(
        "bench/gpu_yardstick.py",
        None,
        lambda words: tyro.cli(Options, prog="bench/gpu_yardstick.py", args=words),
    )
    if not torch.cuda.is_available():
        print("bench/gpu_yardstick.py: PyTorch sees no GPU here", file=sys.stderr)
        return 2
    torch.backends.cudnn.benchmark = True
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    failed = False
    # The network alone first: should our lanes bring the process down, these are on paper.
    for measure in (networks, pipeline):
        for name in options.models:
            for form in ("rgb24", "nv12"):
                found = tried(partial(measure, name, form, options))
                failed |= "error" in found
                line = {"model": name, "format": form, "size": f"{options.size}x{options.size}"}
                print(json.dumps(about | line | found), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main())
