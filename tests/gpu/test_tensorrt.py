"""Each TensorRT on a real GPU: plans are built, gated, kept, and frames come out right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.backends.tensorrt_backend import TensorRtBackend
from engine.errors import BackendUnavailable
from engine.gpu import GpuOptions, open_gpu_backend
from engine.models import load_model
from engine.upscaler import Upscaler
from engine.verify import run_gate

pytestmark = pytest.mark.trt_gpu

SPEC = LaneSpec(256, 320)


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TensorRtBackend]:
    model = load_model("fast", allow_untrained=True)
    try:
        opened = open_gpu_backend(request.param, model, GpuOptions(cache_dir=tmp_path / "plans"))
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with opened:
        yield opened


@pytest.mark.parametrize("spec", [SPEC, LaneSpec(255, 321, "nv12")], ids=str)
def test_a_plan_built_here_passes_the_gate_and_says_so(
    backend: TensorRtBackend, spec: LaneSpec
) -> None:
    backend.open_lanes(spec, 2)
    assert backend.info.detail["verified"] == "true"
    assert len(backend.info.plan_sha256) == 64
    assert run_gate(backend, load_model("fast", allow_untrained=True), spec).passed


def test_frames_of_a_stream_are_in_order(backend: TensorRtBackend) -> None:
    draw = np.random.default_rng(0)
    frames = [draw.integers(0, 256, (256, 320, 3), np.uint8) for _ in range(12)]
    upscaler = Upscaler(backend, lanes=3)
    alone = [upscaler.upscale(frame) for frame in frames]
    for one, other in zip(alone, upscaler.stream(iter(frames), SPEC), strict=True):
        np.testing.assert_array_equal(one, other)


def test_device_memory_is_constant_after_warm_up(backend: TensorRtBackend) -> None:
    lanes = backend.open_lanes(SPEC, 2)
    frame = np.zeros((256, 320, 3), np.uint8)
    free = []
    for number in range(60):
        lanes[number % 2].start(frame)
        lanes[number % 2].finish()
        free.append(backend.free_bytes())
    assert set(free[20:]) == {free[20]}
