"""Real plans, built here without a GPU: CI makes the T4's plan of every shipped width."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.backends.base import LaneSpec
from engine.backends.cuda_api import DeviceFacts
from engine.backends.tensorrt_rtx import TARGETS
from engine.backends.tensorrt_runtime import TrtRuntime
from engine.backends.tensorrt_shim import BuildCancelled, BuildOptions, build_plan, load_plan
from engine.build import CachedPlans, PlanFile, PlanMaker, Target, runtime_named, timing_path
from engine.cache import PlanCache, write_plan
from engine.checked_file import read_checked, write_checked
from engine.errors import BackendUnavailable, ContractError, PlanError
from engine.graph import build_graph
from engine.models import NAMES, Model, load_model
from engine.plan import Profile, read_plan, sha256_hex
from tests.engine.fake_tensorrt import FakeTensorRT

T4 = Target("7.5")
FULL = LaneSpec(1024, 1024)
SMALL = LaneSpec(32, 32)


@pytest.fixture(scope="module")
def rtx() -> TrtRuntime:
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (works without a GPU)")
    return runtime_named("tensorrt_rtx")


@pytest.fixture(scope="module")
def fast() -> Model:
    return load_model("fast", allow_untrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_t4_plan_of_every_shipped_width_builds(rtx: TrtRuntime, name: str) -> None:
    model = load_model(name, allow_untrained=True)
    plan = PlanMaker(rtx, model, T4).make(FULL)
    assert plan.record.sha256 == sha256_hex(plan.data)
    assert plan.record.trained == model.trained
    assert not plan.record.verified, "no machine without a T4 can verify it"
    key = plan.record.key
    assert (key.compute_capability, key.gpu_name, key.precision) == ("7.5", "", "fp16")
    assert key.profile == Profile.static(1024, 1024)


def test_every_target_gets_a_plan_of_its_own(rtx: TrtRuntime, fast: Model) -> None:
    plans = {cc: PlanMaker(rtx, fast, Target(cc)).make(SMALL).data for cc in TARGETS}
    assert len(set(plans.values())) >= 4
    assert plans["7.5"] not in [plans[cc] for cc in plans if cc != "7.5"]


@pytest.mark.parametrize("matrix", ["bt601", "bt2020"])
def test_nv12_plans_build_for_odd_sizes_too(rtx: TrtRuntime, fast: Model, matrix: str) -> None:
    spec = LaneSpec(31, 33, "nv12", matrix, full_range=True)
    assert PlanMaker(rtx, fast, T4).make(spec).record.key.format == "nv12"


def test_the_same_plan_has_the_same_bytes(rtx: TrtRuntime, fast: Model) -> None:
    one, other = (PlanMaker(rtx, fast, T4).make(SMALL) for _ in range(2))
    assert one.record.sha256 == other.record.sha256
    assert one.record.key == other.record.key


def test_a_dynamic_plan_serves_every_size_it_admits(rtx: TrtRuntime, fast: Model) -> None:
    options = BuildOptions(profile=Profile((16, 16), (32, 32), (64, 64)))
    maker = PlanMaker(rtx, fast, T4, options)
    assert maker.key(LaneSpec(20, 60)) == maker.key(LaneSpec(64, 64))
    assert maker.key(LaneSpec(20, 80)).profile == Profile.static(20, 80)
    assert maker.make(LaneSpec(20, 60)).record.key.profile == options.profile


def test_weights_of_the_same_name_get_another_plan(rtx: TrtRuntime, fast: Model) -> None:
    weights = {**fast.weights, "conv_in.bias": fast.weights["conv_in.bias"] + np.float32(0.01)}
    retrained = replace(fast, weights=weights)
    maker, other = PlanMaker(rtx, fast, T4), PlanMaker(rtx, retrained, T4)
    assert maker.key(SMALL).onnx_sha256 != other.key(SMALL).onnx_sha256
    assert maker.key(SMALL) == PlanMaker(rtx, fast, T4).key(SMALL)


def test_an_fp32_plan_is_another_plan_and_fp32_throughout(rtx: TrtRuntime, fast: Model) -> None:
    half = PlanMaker(rtx, fast, Target("7.5"))
    single = PlanMaker(rtx, fast, Target("7.5"), precision="fp32")
    spec = LaneSpec(64, 64)
    assert single.key(spec) != half.key(spec)
    plan = single.make(spec)
    assert plan.record.key.precision == "fp32"
    with pytest.raises(ContractError, match="not FP32 throughout"):
        build_plan(rtx.trt, half.graph(spec), single.options_for(spec))


def with_one_fp32_convolution(onnx_bytes: bytes) -> bytes:
    """The graph with Casts around one convolution and FP32 weights in it: valid, and slow."""
    model = onnx.load_from_string(onnx_bytes)
    graph = model.graph
    index, node = [(i, n) for i, n in enumerate(graph.node) if n.op_type == "Conv"][8]
    for name in node.input[1:]:
        constant = next(c for c in graph.initializer if c.name == name)
        constant.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float32), name)
        )
    before = helper.make_node("Cast", [node.input[0]], ["wide"], to=TensorProto.FLOAT)
    after = helper.make_node("Cast", ["narrow"], [node.output[0]], to=TensorProto.FLOAT16)
    node.input[0], node.output[0] = "wide", "narrow"
    graph.node.insert(index + 1, after)
    graph.node.insert(index, before)
    return bytes(model.SerializeToString())


def test_one_fp32_convolution_among_seventeen_is_refused(rtx: TrtRuntime, fast: Model) -> None:
    slow = with_one_fp32_convolution(build_graph(fast, "rgb24", "fp16"))
    with pytest.raises(ContractError, match=r"not FP16 throughout.*FLOAT"):
        build_plan(rtx.trt, slow, BuildOptions(profile=Profile.static(32, 32)))


def test_an_fp32_graph_and_no_graph_are_refused(rtx: TrtRuntime, fast: Model) -> None:
    options = BuildOptions(profile=Profile.static(32, 32))
    with pytest.raises(ContractError, match="not FP16 throughout"):
        build_plan(rtx.trt, build_graph(fast, "rgb24", "fp32"), options)
    with pytest.raises(ContractError, match="does not parse"):
        build_plan(rtx.trt, b"junk", options)


def test_a_build_reports_progress_and_can_be_cancelled(rtx: TrtRuntime, fast: Model) -> None:
    seen: list[float] = []
    PlanMaker(rtx, fast, T4).make(SMALL, lambda done, phase: bool(seen.append(done) or True))
    assert len(seen) > 50
    assert seen == sorted(seen)
    assert seen[-1] > 0.8
    with pytest.raises(BuildCancelled):
        PlanMaker(rtx, fast, T4).make(SMALL, lambda done, phase: done < 0.3)


def test_a_cached_plan_is_not_built_again(rtx: TrtRuntime, fast: Model, tmp_path: Path) -> None:
    calls: list[str] = []
    cache = PlanCache.open(tmp_path / "cache")
    plans = CachedPlans(
        PlanMaker(rtx, fast, T4), cache, lambda done, phase: bool(calls.append(phase) or True)
    )
    first = plans.plan_for(SMALL, lambda plan: None)
    built = len(calls)
    assert plans.plan_for(SMALL, lambda plan: None) == first
    assert len(calls) == built
    plans.accept(first, "Tesla T4")
    assert plans.plan_for(SMALL, lambda plan: None).record.verified
    plans.reject(first, "wrong pixels")
    assert not plans.plan_for(SMALL, lambda plan: None).record.verified
    assert len(calls) == 2 * built


@pytest.fixture
def plan_file(rtx: TrtRuntime, fast: Model, tmp_path: Path) -> Path:
    path = tmp_path / "fast.plan"
    write_plan(path, PlanMaker(rtx, fast, T4).make(SMALL))
    return path


def test_a_plan_file_is_used_as_it_is(rtx: TrtRuntime, fast: Model, plan_file: Path) -> None:
    file = PlanFile(plan_file, PlanMaker(rtx, fast, T4), print)
    plan = file.plan_for(SMALL, lambda plan: None)
    file.accept(plan, "Tesla T4")
    assert read_plan(plan_file).record.verified_on == "Tesla T4"


def test_a_plan_file_for_something_else_is_refused_in_one_sentence(
    rtx: TrtRuntime, fast: Model, plan_file: Path
) -> None:
    def refused(error: type[Exception], says: str, maker: PlanMaker, spec: LaneSpec) -> None:
        with pytest.raises(error, match=says) as caught:
            PlanFile(plan_file, maker, print).plan_for(spec, lambda plan: None)
        assert "\n" not in str(caught.value)

    maker = PlanMaker(rtx, fast, T4)
    refused(ContractError, "got rgb24 of", maker, FULL)
    refused(ContractError, "got nv12 of", maker, replace(SMALL, format="nv12"))
    refused(PlanError, "this GPU has 8.9", PlanMaker(rtx, fast, Target("8.9")), SMALL)
    quality = load_model("quality", allow_untrained=True)
    refused(PlanError, "made from another ONNX", PlanMaker(rtx, quality, T4), SMALL)
    newer = replace(rtx, trt=type("Newer", (), {"__version__": "9.9.9.9"}))
    refused(PlanError, "9.9.9.9 is installed", PlanMaker(newer, fast, T4), SMALL)


def test_a_gpu_that_rtx_does_not_build_for_is_refused(rtx: TrtRuntime) -> None:
    hopper = DeviceFacts("NVIDIA H100", "9.0", 132, 80 << 30, 3, "13.0")
    with pytest.raises(BackendUnavailable, match=r"capability 9\.0 \(only 75, 80"):
        Target.of(rtx, hopper)


def test_full_tensorrt_plans_belong_to_one_kind_of_card(rtx: TrtRuntime) -> None:
    full = replace(rtx, name="tensorrt", targets={})
    card = DeviceFacts("Tesla T4", "7.5", 40, 15_843_721_216, 3, "13.0")
    assert Target.of(full, card) == Target("7.5", "Tesla T4", 40, 15)
    assert Target.of(rtx, card) == T4


def test_a_backend_that_builds_nothing_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="builds no plans"):
        runtime_named("onnxruntime")


def test_a_checked_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    assert read_checked(path) is None
    assert write_checked(path, b"timings")
    assert read_checked(path) == b"timings"
    stored = path.read_bytes()
    for index in range(len(stored)):
        path.write_bytes(stored[:index] + bytes([stored[index] ^ 1]) + stored[index + 1 :])
        assert read_checked(path) is None
    assert not write_checked(tmp_path / "missing" / "timing.cache", b"")
    assert list(tmp_path.glob("*.tmp")) == []


def test_timings_are_kept_between_builds_and_damaged_ones_are_dropped(
    fast: Model, tmp_path: Path
) -> None:
    trt, path = FakeTensorRT(), tmp_path / "timing.cache"
    full = TrtRuntime("tensorrt", trt, "13", partial(load_plan, trt))
    maker = PlanMaker(full, fast, Target("7.5", "Tesla T4", 40, 15), timing_file=path)
    for content in (b"+", b"++"):
        assert maker.make(SMALL).record.key.timing_cache
        assert read_checked(path) == content
    path.write_bytes(b"garbage")
    maker.make(SMALL)
    assert read_checked(path) == b"+"
    untimed = PlanMaker(full, fast, Target("7.5", "Tesla T4", 40, 15))
    assert untimed.key(SMALL) != maker.key(SMALL)


def test_timings_of_each_version_and_card_have_a_file_of_their_own(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    full = TrtRuntime("tensorrt", trt, "13", partial(load_plan, trt))
    cache = PlanCache.open(tmp_path)
    path = timing_path(cache, full, "Tesla T4")
    assert path.name == "timing-11.4.0.106-tesla-t4.cache"
    assert path != timing_path(cache, full, "NVIDIA L4")
