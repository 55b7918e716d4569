"""The ``tensor`` graph in other people's runtimes, used the way docs/interop.md says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from engine.contract import SCALE, TENSOR_INPUT, TENSOR_OUTPUT, Precision
from engine.export import load_network
from engine.graph import build_graph
from engine.models import load_model
from tests.engine.fakes import noisy_model

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 4 / 255}


@pytest.fixture(params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def graph(tmp_path: Path, precision: Precision) -> Path:
    path = tmp_path / "noisy.onnx"
    path.write_bytes(build_graph(noisy_model(), "tensor", precision))
    return path


def planes(data: Path, count: int = 1, height: int = 20, width: int = 28) -> np.ndarray:
    """(N, 3, H, W) float32 in [0, 1], RGB, cut from a photograph."""
    pixels = np.asarray(Image.open(data / "pictures" / "skyline.png").convert("RGB"))
    cuts = [pixels[i * 8 : i * 8 + height, :width] for i in range(count)]
    return np.stack(cuts).transpose(0, 3, 1, 2).astype(np.float32) / 255


def expected(x: np.ndarray) -> np.ndarray:
    import torch

    return load_network(noisy_model())(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]


def test_onnx_runtime_as_it_comes_agrees_with_pytorch(
    graph: Path, precision: Precision, data: Path
) -> None:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    x = planes(data, count=2)
    (y,) = session.run([TENSOR_OUTPUT], {TENSOR_INPUT: x})
    assert y.shape == (2, 3, SCALE * 20, SCALE * 28)
    assert y.dtype == np.float32
    assert np.abs(y - expected(x)).max() <= TOLERANCE[precision]


def test_opencv_dnn_agrees_with_pytorch(graph: Path, precision: Precision, data: Path) -> None:
    x = planes(data)
    network = cv2.dnn.readNetFromONNX(str(graph))
    network.setInput(x, TENSOR_INPUT)
    y = network.forward(TENSOR_OUTPUT)
    assert y.shape == (1, 3, SCALE * 20, SCALE * 28)
    assert np.abs(y - expected(x)).max() <= TOLERANCE[precision]


def test_a_shipped_name_loads_in_opencv_at_two_sizes(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "fast.onnx"
    path.write_bytes(build_graph(load_model("fast", allow_untrained=True), "tensor"))
    network = cv2.dnn.readNetFromONNX(str(path))
    for height, width in ((16, 24), (9, 33)):
        network.setInput(planes(data, 1, height, width), TENSOR_INPUT)
        assert network.forward().shape == (1, 3, SCALE * height, SCALE * width)
