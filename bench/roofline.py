"""What the hardware allows: work of a model from its weights, rates of a machine measured here.

The prediction for a T4 is arithmetic with published rates, not a measurement, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.contract import SCALE, FrameFormat
from engine.models import Model

T4_FLOPS = 24e12
"""FP16, sustained under its 70 W cap (a forum report; the peak is 65)."""
T4_BYTES = 260e9
"""Of 320 GB/s, what copies reach."""
T4_PCIE_BYTES = 12e9


@dataclass(frozen=True, slots=True)
class Work:
    """What one frame costs."""

    flops: float
    """Two per multiply-accumulate."""
    activation_bytes: float
    """Every layer's input read and output written once, nothing fused."""
    bytes_in: int
    """uint8 samples that enter."""
    bytes_out: int
    """uint8 samples that leave."""


def work_of(model: Model, height: int, width: int, form: FrameFormat, element: int) -> Work:
    """The work of a frame of (height, width), ``element`` bytes per activation."""
    pixels = height * width
    shapes = [array.shape for name, array in model.weights.items() if name.endswith(".weight")]
    nv12 = form == "nv12"
    # The last convolution of the nv12 graph gives 16 luma and 8 chroma channels instead of 48.
    outputs = 24 if nv12 else 3 * SCALE * SCALE
    wide = 3 * SCALE * SCALE
    layers = [(outputs if o == wide else o, i, kh * kw) for o, i, kh, kw in shapes]
    samples = 1.5 if nv12 else 3.0
    return Work(
        flops=2.0 * pixels * sum(o * i * taps for o, i, taps in layers),
        activation_bytes=float(pixels * element * sum(o + i for o, i, _ in layers)),
        bytes_in=int(pixels * samples),
        bytes_out=int(pixels * samples) * SCALE * SCALE,
    )


def t4_prediction(work: Work) -> dict[str, float | str]:
    """fps on a T4 if every rate is reached and everything overlaps: an upper bound."""
    compute = max(work.flops / T4_FLOPS, work.activation_bytes / T4_BYTES)
    copies = max(work.bytes_in, work.bytes_out) / T4_PCIE_BYTES
    slowest = max(compute, copies)
    return {
        "kind": "prediction, not measured: 24 TFLOP/s, 260 GB/s, PCIe 12 GB/s, full overlap",
        "fps_engine": round(1 / compute, 1),
        "fps_pipeline": round(1 / slowest, 1),
        "bound_by": "PCIe" if copies > compute else "compute or memory",
    }


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured rates."""

    flops: float | None
    """Dense matrix product in the precision of the run; None where nothing here can measure it."""
    copy_bytes: float | None
    """Bytes read plus bytes written per second of a large copy in the device's own memory."""
    how: str


def best_seconds(work: Callable[[], object], seconds: float = 0.4) -> float:
    """The shortest of the runs that fit into ``seconds`` (at least three), after a warm-up."""
    work()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def cpu_machine(side: int = 1024) -> Machine:
    """FP32 rates of this process's cores, through NumPy."""
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal((side, side)).astype(np.float32) for _ in range(2))
    out = np.empty_like(a)
    flops = 2.0 * side**3 / best_seconds(lambda: np.matmul(a, b, out=out))
    source = np.ones(64 << 20, np.uint8)
    target = np.zeros_like(source)
    copied = 2.0 * source.nbytes / best_seconds(lambda: np.copyto(target, source))
    return Machine(flops, copied, "NumPy FP32 matrix product and copy on all cores")


def gpu_machine() -> Machine:
    """FP16 rates of the GPU, through PyTorch where it is installed."""
    try:
        import torch
    except ImportError:
        return Machine(None, None, "not measured: PyTorch is not installed here")
    if not torch.cuda.is_available():
        return Machine(None, None, "not measured: this PyTorch sees no GPU")

    def timed(run: Callable[[], object]) -> float:
        def synchronous() -> None:
            run()
            torch.cuda.synchronize()

        return best_seconds(synchronous)

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    flops = 2.0 * 8192**3 / timed(lambda: a @ b)
    source = torch.ones(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = 2.0 * source.numel() / timed(lambda: target.copy_(source))
    return Machine(flops, copied, "PyTorch FP16 8192x8192 matrix product and 1 GiB copy")


def reached(work: Work, machine: Machine, fps: float) -> dict[str, float]:
    """Fractions of the machine's rates that ``fps`` uses."""
    found = {}
    if machine.flops:
        found["matrix_rate"] = round(work.flops * fps / machine.flops, 4)
    if machine.copy_bytes:
        found["copy_bandwidth"] = round(work.activation_bytes * fps / machine.copy_bytes, 4)
    return found
