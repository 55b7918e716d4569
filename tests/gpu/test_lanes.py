"""Our lanes on a real GPU, with PyTorch FP16 as the network."""

from __future__ import annotations

import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.backends.cuda_thread import GpuThread
from engine.frames import Nv12
from engine.models import load_model
from engine.upscaler import Upscaler
from engine.verify import run_gate

pytestmark = pytest.mark.gpu

SPECS = [LaneSpec(256, 320), LaneSpec(255, 321, "nv12"), LaneSpec(256, 256, "nv12", "bt601", True)]


@pytest.fixture
def backend(gpu: GpuThread):  # type: ignore[no-untyped-def]  # its module needs CUDA's PyTorch
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    from bench.torch_network import TorchCudaBackend

    backend = TorchCudaBackend(gpu, load_model("fast", allow_untrained=True))
    yield backend
    backend.close()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_lanes_pass_the_gate(backend, spec: LaneSpec) -> None:  # type: ignore[no-untyped-def]
    report = run_gate(backend, load_model("fast", allow_untrained=True), spec)
    assert report.passed, report.worst


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_frames_of_a_stream_are_those_of_single_runs(  # type: ignore[no-untyped-def]
    backend, spec: LaneSpec, lanes: int
) -> None:
    from bench.measure import Hasher, expect, run_pipeline

    hasher = Hasher()
    expected = expect(backend, spec, hasher)
    run = run_pipeline(backend, spec, expected, lanes, 100, hasher)
    hasher.close()
    assert run.wrong == []
    assert set(run.stages_ms) >= {"copy_in", "compute", "copy_out"}


def test_device_memory_is_constant_after_warm_up(backend, gpu: GpuThread) -> None:  # type: ignore[no-untyped-def]
    spec = SPECS[0]
    frame = np.zeros((spec.height, spec.width, 3), np.uint8)
    lanes = backend.open_lanes(spec, 2)
    free = []
    for number in range(60):
        lane = lanes[number % 2]
        lane.start(frame)
        lane.finish()
        free.append(gpu.call(lambda device: device.free_bytes()))
    assert set(free[10:]) == {free[10]}


def test_copies_overlap_the_network(backend) -> None:  # type: ignore[no-untyped-def]
    from bench.fps_cli import buffering
    from bench.measure import Hasher, expect, run_pipeline

    spec = LaneSpec(1024, 1024, "nv12")
    hasher = Hasher()
    expected = expect(backend, spec, hasher)
    single = run_pipeline(backend, spec, expected, 1, 60, hasher)
    several = run_pipeline(backend, spec, expected, 3, 120, hasher)
    hasher.close()
    assert single.wrong == several.wrong == []
    print(buffering(single, several, 3))


def test_a_wrong_shape_leaves_the_gpu_usable(backend) -> None:  # type: ignore[no-untyped-def]
    from engine.errors import ContractError

    upscaler = Upscaler(backend, guard=False)
    spec = LaneSpec(64, 64, "nv12")
    with pytest.raises(ContractError):
        list(upscaler.stream(iter([np.zeros((64, 64, 3), np.uint8)]), spec))
    good = Nv12(np.zeros((64, 64), np.uint8), np.full((32, 32, 2), 128, np.uint8))
    assert len(list(upscaler.stream(iter([good] * 3), spec))) == 3
