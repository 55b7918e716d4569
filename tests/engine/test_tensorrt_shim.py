"""The shim on a fake full TensorRT: what it asks for, and what it makes of every refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends import tensorrt
from engine.backends.tensorrt_log import Message, ProgressTree
from engine.backends.tensorrt_shim import (
    BuildCancelled,
    BuildOptions,
    build_plan,
    check_parsed,
    check_types,
    load_plan,
)
from engine.errors import (
    BackendUnavailable,
    ContractError,
    EngineFault,
    OutOfMemory,
    PlanError,
)
from engine.plan import Profile
from tests.engine.fake_tensorrt import FLOAT, FakeTensorRT, layers_of

OPTIONS = BuildOptions(profile=Profile.static(32, 48))


@pytest.fixture
def trt() -> FakeTensorRT:
    return FakeTensorRT()


def test_a_plan_is_built_with_the_options_and_without_precision_flags(trt: FakeTensorRT) -> None:
    options = replace(OPTIONS, optimization_level=4, tiling_level="FAST", workspace_bytes=1 << 28)
    seen: list[float] = []
    built = build_plan(trt, b"onnx", options, lambda done, phase: bool(seen.append(done) or True))
    assert built.data == b"PLAN"
    assert built.timing_cache is None
    assert trt.fake_config["shapes"] == [("frame", (32, 48, 3), (32, 48, 3), (32, 48, 3))]
    assert trt.fake_config["builder_optimization_level"] == 4
    assert str(trt.fake_config["tiling_optimization_level"]) == "FAST"
    assert trt.fake_config["WORKSPACE"] == 1 << 28
    assert trt.fake_config["max_aux_streams"] == 0
    assert seen == [0.5, 1.0]


def test_nv12_has_two_inputs_with_chroma_rounded_up(trt: FakeTensorRT) -> None:
    build_plan(trt, b"onnx", BuildOptions("nv12", Profile.static(31, 33)))
    y, uv = trt.fake_config["shapes"]
    assert y[:2] == ("y", (31, 33))
    assert uv[:2] == ("uv", (16, 17, 2))


def test_the_timing_cache_comes_back_larger_and_never_from_another_device(
    trt: FakeTensorRT,
) -> None:
    built = build_plan(trt, b"onnx", replace(OPTIONS, timing_cache=b"old"))
    assert built.timing_cache == b"old+"
    assert trt.fake_config["timing_cache"][1] is False


def test_a_timing_cache_that_is_refused_starts_empty(trt: FakeTensorRT) -> None:
    trt.fake_bad_cache = True
    assert build_plan(trt, b"onnx", replace(OPTIONS, timing_cache=b"x")).timing_cache == b"+"


def test_a_build_can_be_cancelled(trt: FakeTensorRT) -> None:
    with pytest.raises(BuildCancelled):
        build_plan(trt, b"onnx", OPTIONS, lambda done, phase: False)


def test_a_failed_build_says_why(trt: FakeTensorRT) -> None:
    trt.fake_plan = None
    with pytest.raises(PlanError, match="could not be built: the runtime gave no reason"):
        build_plan(trt, b"onnx", OPTIONS)


def test_an_onnx_that_does_not_parse_is_refused_with_the_parsers_words(trt: FakeTensorRT) -> None:
    with pytest.raises(ContractError, match="no node called X"):
        build_plan(trt, b"junk", OPTIONS)


def test_a_warning_while_parsing_refuses_unless_it_is_allowed(trt: FakeTensorRT) -> None:
    trt.fake_says = [("INFO", "hello"), ("WARNING", "weights were clamped to FP16")]
    with pytest.raises(ContractError, match="not allowed: weights were clamped"):
        build_plan(trt, b"onnx", OPTIONS)
    said = [Message("WARNING", "weights were clamped to FP16")]
    check_parsed(None, True, said, allowed=((r"clamped to FP16", "they are finite"),))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("input", "'conv' is not FP16"),
        ("output", "'conv' is not FP16"),
        ("weights", "'conv' is not FP16"),
        ("uint8", "'act' touches uint8"),
        ("none", "holds no convolution"),
    ],
)
def test_a_network_of_the_wrong_types_is_refused(trt: FakeTensorRT, bad: str, says: str) -> None:
    trt.fake_layers = layers_of(bad)
    with pytest.raises(ContractError, match=says):
        check_types(trt, trt.INetworkDefinition())  # type: ignore[attr-defined]


def test_a_loaded_plan_sets_addresses_and_runs_on_the_stream(trt: FakeTensorRT) -> None:
    plan = load_plan(trt, b"PLAN", "rgb24", (32, 48))
    plan.enqueue({"frame": 256, "upscaled": 512}, 7)
    assert trt.fake_calls == [("frame", 256), ("upscaled", 512), ("execute", 7)]
    plan.release()
    assert plan.engine is None


def test_a_plan_of_another_version_is_refused_with_the_runtimes_words(trt: FakeTensorRT) -> None:
    with pytest.raises(PlanError, match=r"does not load with TensorRT 11\.4.*version 10\.9"):
        load_plan(trt, b"OLD", "rgb24", (32, 48))


def test_a_plan_with_other_tensors_is_refused(trt: FakeTensorRT) -> None:
    with pytest.raises(PlanError, match="not those of nv12"):
        load_plan(trt, b"PLAN", "nv12", (32, 48))
    trt.fake_engine_names = {"frame": FLOAT, "upscaled": FLOAT}
    with pytest.raises(PlanError, match="is not uint8"):
        load_plan(trt, b"PLAN", "rgb24", (32, 48))


def test_a_size_outside_the_profile_is_the_callers_mistake(trt: FakeTensorRT) -> None:
    with pytest.raises(ContractError, match="the plan takes no 48x65 frame"):
        load_plan(trt, b"PLAN", "rgb24", (65, 48))


def test_no_memory_for_the_context_is_out_of_memory(trt: FakeTensorRT) -> None:
    trt.fake_no_context = True
    with pytest.raises(OutOfMemory, match="no device memory to run 48x32 frames"):
        load_plan(trt, b"PLAN", "rgb24", (32, 48))


def test_a_refused_frame_is_a_fault(trt: FakeTensorRT) -> None:
    plan = load_plan(trt, b"PLAN", "rgb24", (32, 48))
    with pytest.raises(EngineFault, match="refuses an address"):
        plan.enqueue({"frame": 0}, 7)
    trt.fake_enqueue_fails = True
    with pytest.raises(EngineFault, match="the runtime failed"):
        plan.enqueue({"frame": 256}, 7)


def test_only_versions_that_the_shim_knows_are_taken(trt: FakeTensorRT) -> None:
    assert tensorrt.runtime(lambda name: trt).version == "11.4.0.106"
    trt.__version__ = "8.6.1.6"
    with pytest.raises(BackendUnavailable, match=r"8\.6\.1\.6 is not 10\.x or 11\.x"):
        tensorrt.runtime(lambda name: trt)


@pytest.mark.parametrize("error", [ImportError("libnvinfer.so.11"), OSError("no driver")])
def test_a_library_that_does_not_load_is_one_sentence(error: Exception) -> None:
    def load(name: str) -> None:
        raise error

    with pytest.raises(BackendUnavailable, match="installed but does not load"):
        tensorrt.runtime(load)


@given(st.lists(st.sampled_from(["start", "step", "finish"]), max_size=40), st.data())
def test_progress_never_falls_and_stays_between_0_and_1(
    events: list[str], data: st.DataObject
) -> None:
    seen: list[float] = []
    tree = ProgressTree(lambda done, phase: bool(seen.append(done) or True))
    open_phases = ["root"]
    tree.phase_start("root", None, 3)
    for number, event in enumerate(events):
        phase = data.draw(st.sampled_from(open_phases))
        if event == "start":
            tree.phase_start(f"phase {number}", phase, data.draw(st.integers(0, 4)))
            open_phases.append(f"phase {number}")
        elif event == "step":
            tree.step_complete(phase, data.draw(st.integers(0, 5)))
        else:
            tree.phase_finish(phase)
    assert seen == sorted(seen)
    assert all(0 <= done <= 1 for done in seen)
