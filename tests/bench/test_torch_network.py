"""The PyTorch yardstick computes what the product computes, bytes to bytes."""

from __future__ import annotations

import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.backends.tensor_shapes import input_shapes, output_shapes
from engine.frames import Nv12
from engine.models import load_model
from engine.verify import score

torch = pytest.importorskip("torch", reason="the yardstick needs the train extra")


@pytest.mark.parametrize(
    "spec",
    [
        LaneSpec(24, 20),
        LaneSpec(24, 20, "nv12"),
        LaneSpec(23, 21, "nv12", "bt601", full_range=True),
    ],
)
def test_the_yardstick_agrees_with_onnx_runtime(spec: LaneSpec) -> None:
    from bench.torch_network import TorchNetwork

    model = load_model("fast", allow_untrained=True)
    size = (spec.height, spec.width)
    draw = np.random.default_rng(0)
    planes = {
        name: draw.integers(0, 256, shape, np.uint8)
        for name, shape in input_shapes(spec.format, size).items()
    }
    outputs = {
        name: torch.zeros(shape, dtype=torch.uint8)
        for name, shape in output_shapes(spec.format, size).items()
    }
    network = TorchNetwork(model, spec, "cpu", torch.float32)
    network.run({name: torch.from_numpy(plane) for name, plane in planes.items()}, outputs)
    arrays, made = list(planes.values()), [tensor.numpy() for tensor in outputs.values()]
    with OnnxRuntimeBackend(model) as judge:
        (lane,) = judge.open_lanes(spec, 1)
        lane.start(arrays[0] if len(arrays) == 1 else Nv12(*arrays))
        found = score("frame", made[0] if len(made) == 1 else Nv12(*made), lane.finish())
        lane.close()
    assert found.max_difference <= 1
    assert found.psnr_db > 60
