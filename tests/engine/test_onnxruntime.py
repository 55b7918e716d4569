"""The CPU lane: in place, in order, and honest about its failures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from engine.backends.base import LaneSpec
from engine.backends.onnxruntime import (
    OnnxRuntimeBackend,
    OnnxRuntimeLane,
    available_cores,
    open_session,
    translate,
)
from engine.errors import BackendUnavailable, ContractError, EngineFault, OutOfMemory
from engine.frames import Nv12
from engine.gate_frames import natural_frames
from engine.graph import build_graph
from tests.engine.fakes import noisy_model

SPEC = LaneSpec(20, 24)
FRAMES = [frame for _, frame in natural_frames(20, 24)]


@pytest.fixture
def backend() -> Iterator[OnnxRuntimeBackend]:
    with OnnxRuntimeBackend(noisy_model(), 1) as opened:
        yield opened


def expected(frame: np.ndarray) -> np.ndarray:
    session = open_session(build_graph(noisy_model(), "rgb24"), 1)
    return np.asarray(session.run(None, {"frame": np.ascontiguousarray(frame)})[0])


def test_results_are_written_into_the_same_memory_every_time(backend: OnnxRuntimeBackend) -> None:
    lane = backend.open_lanes(SPEC, 1)[0]
    addresses = set()
    for frame in FRAMES[:3]:
        lane.start(frame)
        made = lane.finish()
        assert isinstance(made, np.ndarray)
        np.testing.assert_array_equal(made, expected(frame))
        addresses.add(made.ctypes.data)
    assert len(addresses) == 1


def test_lanes_do_not_share_results(backend: OnnxRuntimeBackend) -> None:
    lanes = backend.open_lanes(SPEC, 3)
    for lane, frame in zip(lanes, FRAMES, strict=False):
        lane.start(frame)
    for lane, frame in zip(lanes, FRAMES, strict=False):
        np.testing.assert_array_equal(lane.finish(), expected(frame))


def test_strided_frames_are_read_correctly(backend: OnnxRuntimeBackend) -> None:
    lane = backend.open_lanes(SPEC, 1)[0]
    wide = np.repeat(FRAMES[0], 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    lane.start(wide)
    np.testing.assert_array_equal(lane.finish(), expected(FRAMES[0]))


def test_one_backend_serves_both_formats_and_every_matrix(backend: OnnxRuntimeBackend) -> None:
    frame = Nv12(np.full((5, 7), 100, np.uint8), np.full((3, 4, 2), 60, np.uint8))
    results = []
    for matrix in ("bt601", "bt709"):
        lane = backend.open_lanes(LaneSpec(5, 7, "nv12", matrix), 1)[0]
        lane.start(frame)
        made = lane.finish()
        assert isinstance(made, Nv12)
        results.append(made.uv.copy())
    assert not np.array_equal(*results)


def test_misuse_of_a_lane_is_refused(backend: OnnxRuntimeBackend) -> None:
    lane = backend.open_lanes(SPEC, 1)[0]
    with pytest.raises(EngineFault, match="never started"):
        lane.finish()
    with pytest.raises(ContractError, match="takes rgb24 frames of 24x20"):
        lane.start(np.zeros((20, 25, 3), np.uint8))
    lane.start(FRAMES[0])
    with pytest.raises(EngineFault, match="still busy"):
        lane.start(FRAMES[1])
    lane.close()
    lane.close()
    with pytest.raises(EngineFault, match="closed"):
        lane.start(FRAMES[0])


def test_closing_the_backend_closes_its_lanes_with_a_frame_in_flight() -> None:
    backend = OnnxRuntimeBackend(noisy_model(), 1)
    lanes = backend.open_lanes(SPEC, 2)
    for lane in lanes:
        lane.start(FRAMES[0])
    backend.close()
    backend.close()
    for lane in lanes:
        with pytest.raises(EngineFault, match="closed"):
            lane.start(FRAMES[0])


def test_failures_of_the_runtime_become_the_engines_own() -> None:
    """A graph that only seven samples fit: it loads, then fails on the frame."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["frame", "seven"], ["upscaled"])],
        "seven",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["h", "w", 3])],
        [helper.make_tensor_value_info("upscaled", TensorProto.UINT8, ["n"])],
        [helper.make_tensor("seven", TensorProto.INT64, [1], [7])],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = open_session(model.SerializeToString(), 1)
    with ThreadPoolExecutor(1) as worker:
        lane = OnnxRuntimeLane(session, worker, LaneSpec(5, 7))
        lane.start(np.zeros((5, 7, 3), np.uint8))
        with pytest.raises(EngineFault, match="ONNX Runtime failed on a frame of 7x5"):
            lane.finish()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (RuntimeError("std::bad_alloc\nin Conv"), OutOfMemory),
        (RuntimeError("Failed to allocate memory for requested buffer"), OutOfMemory),
        (RuntimeError("Non-zero status code"), EngineFault),
    ],
)
def test_running_out_of_memory_is_told_apart(error: Exception, kind: type[EngineFault]) -> None:
    fault = translate(error, 10, 20)
    assert type(fault) is kind
    assert "20x10" in str(fault)
    assert "\n" not in str(fault)


def test_info_says_who_runs_what(backend: OnnxRuntimeBackend) -> None:
    info = backend.info
    assert (info.name, info.version) == ("onnxruntime", onnxruntime.__version__)
    assert info.device.endswith("(1 threads)")
    assert (info.model, info.precision, info.halo) == ("noisy", "fp32", 6)
    assert len(info.onnx_sha256) == 64


def test_threads_must_be_possible() -> None:
    with pytest.raises(BackendUnavailable, match="threads must be at least 1, got 0"):
        OnnxRuntimeBackend(noisy_model(), 0)
    assert available_cores() >= 1


def test_what_is_not_a_graph_is_refused() -> None:
    with pytest.raises(ContractError, match="ONNX Runtime cannot load the graph"):
        open_session(b"hello", 1)
