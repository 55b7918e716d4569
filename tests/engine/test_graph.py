"""Graphs made from weights compute what PyTorch computes, in every format."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends.base import LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend, open_session
from engine.contract import GraphFormat, Precision
from engine.errors import ContractError
from engine.export import Inputs, Variant, load_network, probe, reference, reference_levels
from engine.graph import build_graph
from engine.graph_check import check_graph
from engine.graph_writer import round_taps
from engine.models import Model, load_model
from engine.verify import run_gate
from tests.engine.fakes import noisy_model

CONFIGS = [
    {"width": 6, "body": 3},
    {"width": 5, "body": 4, "skip_every": 2, "activation": "leaky_relu"},
]
MATRICES = ["bt601", "bt709", "bt2020"]


def built(model: Model, variant: Variant) -> bytes:
    return build_graph(model, variant.format, variant.precision, variant.matrix, variant.full_range)


def before_clip(onnx_bytes: bytes, inputs: Inputs) -> np.ndarray:
    """(O, H, W): what the last convolution gives, in grey levels."""
    graph = onnx.load_from_string(onnx_bytes)
    last = [node for node in graph.graph.node if node.op_type == "Conv"][-1].output[0]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, 1, None))
    session = open_session(graph.SerializeToString(), threads=1)
    return np.asarray(session.run([last], dict(inputs))[0][0])


@settings(max_examples=12)
@given(height=st.integers(1, 30), width=st.integers(1, 30), config=st.sampled_from(CONFIGS))
@pytest.mark.parametrize("graph_format", ["rgb24", "tensor", "nv12"])
def test_onnx_equals_torch_at_any_size(
    graph_format: GraphFormat, height: int, width: int, config: dict[str, int | str]
) -> None:
    model, variant = noisy_model(**config), Variant(graph_format)
    inputs = probe(graph_format, height, width, np.random.default_rng(height))
    session = open_session(built(model, variant), threads=1)
    outputs = session.run(None, dict(inputs))
    for found, expected in zip(
        outputs, reference(load_network(model), variant, inputs), strict=True
    ):
        difference = np.abs(found.astype(np.float64) - expected.numpy())
        assert difference.max() <= (1e-4 if graph_format == "tensor" else 1)
        assert np.count_nonzero(difference > 1e-4) <= difference.size // 500


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("size", [(12, 16), (9, 7), (1, 1)])
def test_folded_nv12_equals_the_composition_before_clip_border_included(
    size: tuple[int, int], matrix: str, full_range: bool
) -> None:
    model, variant = noisy_model(), Variant("nv12", "fp32", matrix, full_range)
    inputs = probe("nv12", *size, np.random.default_rng(1))
    channels = before_clip(built(model, variant), inputs)
    assert channels.shape == (16 + 8, *size)
    y, uv = (level.numpy() for level in reference_levels(load_network(model), variant, inputs))
    height, width = size
    luma = channels[:16].reshape(4, 4, height, width).transpose(2, 0, 3, 1).reshape(y.shape)
    chroma = channels[16:].reshape(2, 2, 2, height, width).transpose(3, 1, 4, 2, 0)
    assert np.abs(luma - y).max() / 255 < 1e-4
    assert np.abs(chroma.reshape(uv.shape) - uv).max() / 255 < 1e-4


def test_padding_means_black_in_nv12() -> None:
    """A black frame has the same value at its border as inside: nothing bleeds in."""
    model = noisy_model()
    inside = {"y": np.full((40, 40), 16, np.uint8), "uv": np.full((20, 20, 2), 128, np.uint8)}
    zeros = {"frame": np.zeros((40, 40, 3), np.uint8)}
    folded = before_clip(build_graph(model, "nv12"), inside)
    rgb = before_clip(build_graph(model, "rgb24"), zeros).reshape(4, 4, 3, 40, 40)
    luma = 16 + 219 / 255 * np.tensordot(rgb, [0.2126, 0.7152, 0.0722], axes=([2], [0]))
    assert np.abs(folded[:16].reshape(4, 4, 40, 40) - luma).max() < 0.01


@pytest.mark.parametrize("spec", [LaneSpec(40, 48), LaneSpec(33, 41, "nv12", "bt601", True)])
def test_the_fp16_graph_is_close_to_fp32(spec: LaneSpec) -> None:
    model = load_model("fast", allow_untrained=True)
    with OnnxRuntimeBackend(model, 1, "fp16") as backend:
        report = run_gate(backend, model, spec, threads=1)
    assert report.passed, report.worst


def test_fp16_kernels_keep_their_sum() -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (8, 8, 3, 3))
    rounded = round_taps(weight)
    np.testing.assert_array_equal(rounded, rounded.astype(np.float16))
    kept = np.abs((rounded - weight).sum((2, 3))).mean()
    plain = np.abs((weight.astype(np.float16) - weight).sum((2, 3))).mean()
    assert kept < plain / 5
    assert np.abs(rounded - weight).max() < 2e-4


def test_weights_too_large_for_fp16_are_refused() -> None:
    model = noisy_model()
    model.weights["conv_out.weight"][0, 0, 0, 0] = 1000.0
    build_graph(model, "rgb24")
    with pytest.raises(ContractError, match="does not fit fp16"):
        build_graph(model, "rgb24", "fp16")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph_format", ["rgb24", "nv12", "tensor"])
def test_graphs_obey_the_contract_and_say_what_they_are(
    graph_format: GraphFormat, precision: Precision
) -> None:
    model = load_model("fast", allow_untrained=True)
    content = build_graph(model, graph_format, precision)
    assert content == build_graph(model, graph_format, precision)
    info = check_graph(content)
    assert info.format == graph_format
    expected = {"schema": "1", "model": "fast", "format": graph_format, "precision": precision}
    assert expected.items() <= info.metadata.items()
    assert info.metadata["weights_sha256"] == model.sha256
    assert info.metadata["trained"] == str(model.trained).lower()


def test_the_network_computes_in_fp16_between_the_casts() -> None:
    graph = onnx.load_from_string(build_graph(noisy_model(), "nv12", "fp16")).graph
    weights = {item.name: item.data_type for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv":
            assert {weights[name] for name in node.input[1:]} == {onnx.TensorProto.FLOAT16}


def test_another_matrix_is_another_graph() -> None:
    model = noisy_model()
    graphs = {build_graph(model, "nv12", "fp32", m, f) for m in MATRICES for f in (False, True)}
    assert len(graphs) == 6
    with pytest.raises(ContractError, match="unknown colour matrix 'ycgco'"):
        build_graph(model, "nv12", "fp32", "ycgco")
