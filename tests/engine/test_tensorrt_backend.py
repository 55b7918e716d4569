"""A GPU backend on a fake GPU: plans are gated once, lanes share one context, nothing leaks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine.backends import tensorrt
from engine.backends.base import LaneSpec
from engine.backends.cuda_thread import GpuThread
from engine.backends.nearest import enlarge
from engine.backends.tensorrt_backend import KEPT_SHAPES, Gate, TensorRtBackend
from engine.backends.tensorrt_runtime import TrtRuntime
from engine.backends.tensorrt_shim import BuildOptions
from engine.build import (
    CachedPlans,
    PlanFile,
    PlanMaker,
    PlanSource,
    Target,
    runtime_named,
)
from engine.cache import PlanCache, write_plan
from engine.contract import FrameFormat
from engine.device import MemoryUse
from engine.errors import (
    BackendUnavailable,
    ContractError,
    EngineFault,
    OutOfMemory,
    PlanError,
)
from engine.frames import Nv12
from engine.gpu import GpuOptions, check_driver, open_gpu_backend, open_plan
from engine.models import load_model
from engine.plan import Plan, PlanRecord, Profile, Size, sha256_hex
from engine.selection import model_of
from engine.strips import ALIGNMENT
from engine.upscaler import Upscaler
from tests.engine.fake_cuda import T4, FakeCuda
from tests.engine.test_cuda_lane import FakeNetwork

MODEL = load_model("fast", allow_untrained=True)
SPEC = LaneSpec(8, 12)


class FakeLoaded(FakeNetwork):
    """A loaded plan: the fake network and a memory of being released."""

    released = False

    def release(self) -> None:
        self.released = True


@dataclass
class Rig:
    """A backend and everything it was made of."""

    cuda: FakeCuda = field(default_factory=FakeCuda)
    loaded: list[FakeLoaded] = field(default_factory=list)
    gated: list[LaneSpec] = field(default_factory=list)
    verdict: str = ""
    refuse_loads: int = 0

    def open_device(self) -> FakeCuda:
        self.cuda = FakeCuda()
        return self.cuda

    def load(self, data: bytes, frame_format: FrameFormat, size: Size) -> FakeLoaded:
        if self.refuse_loads:
            self.refuse_loads -= 1
            raise PlanError("the plan does not load")
        self.loaded.append(FakeLoaded(self.cuda, LaneSpec(*size, frame_format)))
        return self.loaded[-1]

    def gate(self, backend: TensorRtBackend, spec: LaneSpec) -> str:
        self.gated.append(spec)
        (lane,) = backend.open_lanes(spec, 1)
        lane.close()
        return self.verdict

    def backend(self, plans: PlanSource, gate: Gate | None = None) -> TensorRtBackend:
        thread = GpuThread(self.open_device)
        return TensorRtBackend(thread, self.runtime(), MODEL, plans, gate or self.gate)

    def ungated(self, plans: PlanSource) -> TensorRtBackend:
        thread = GpuThread(self.open_device)
        return TensorRtBackend(thread, self.runtime(), MODEL, plans, gate=None)

    def runtime(self) -> TrtRuntime:
        trt = SimpleNamespace(__version__="1.7.1.116")
        return TrtRuntime("tensorrt_rtx", trt, "13", self.load, {"7.5": "SM75"})  # type: ignore[arg-type]


class QuickMaker(PlanMaker):
    """Makes a plan's record without a builder."""

    def make(self, spec: LaneSpec, on_progress: object = None) -> Plan:
        return Plan(PlanRecord(self.key(spec), sha256_hex(b"plan"), 4, model="fast"), b"plan")


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def plans(rig: Rig, tmp_path: Path, messages: list[str]) -> CachedPlans:
    maker = QuickMaker(rig.runtime(), MODEL, Target("7.5"))
    cache = PlanCache.open(tmp_path / "plans", messages.append)
    return CachedPlans(maker, cache)


def frames_of(count: int, spec: LaneSpec = SPEC) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (spec.height, spec.width, 3), np.uint8) for _ in range(count)]


def test_frames_go_through_the_upscaler_in_order(rig: Rig, plans: CachedPlans) -> None:
    frames = frames_of(7)
    with Upscaler(rig.backend(plans), lanes=2) as upscaler:
        results = list(upscaler.stream(iter(frames), SPEC))
    for frame, result in zip(frames, results, strict=True):
        np.testing.assert_array_equal(result, enlarge(frame))
    assert all(memory.freed for memory in rig.cuda.memories)
    assert rig.cuda.closed
    assert all(loaded.released for loaded in rig.loaded)


def test_the_gate_runs_once_per_plan_and_gpu(rig: Rig, plans: CachedPlans) -> None:
    for _ in range(2):
        with rig.backend(plans) as backend:
            backend.open_lanes(SPEC, 2)
            backend.open_lanes(SPEC, 2)
            assert backend.info.detail["verified"] == "true"
            assert backend.info.plan_sha256 == sha256_hex(b"plan")
    assert rig.gated == [SPEC]
    moved = plans.cache.get_or_build(plans.maker.key(SPEC), lambda: pytest.fail("was not kept"))
    plans.accept(moved, replace(T4, driver_version="12.0").identity)
    with rig.backend(plans) as backend:
        backend.open_lanes(SPEC, 1)
    assert rig.gated == [SPEC, SPEC]


def test_a_plan_that_fails_the_gate_never_serves(
    rig: Rig, plans: CachedPlans, messages: list[str]
) -> None:
    rig.verdict = "black: PSNR 12.0 dB"
    with rig.backend(plans) as backend:
        with pytest.raises(PlanError, match=r"something else than the weights \(black"):
            backend.open_lanes(SPEC, 2)
        assert rig.loaded[0].released
        rig.verdict = ""
        assert len(backend.open_lanes(SPEC, 2)) == 2
    assert "PSNR 12.0 dB" in messages[0]


def test_a_plan_nobody_judged_is_not_verified(rig: Rig, plans: CachedPlans) -> None:
    with rig.ungated(plans) as backend:
        backend.open_lanes(SPEC, 1)
        assert backend.info.detail["verified"] == "false"
    assert not plans.plan_for(SPEC, lambda plan: None).record.verified


def test_an_error_in_the_gate_leaves_no_ungated_plan_behind(rig: Rig, plans: CachedPlans) -> None:
    def broken(backend: TensorRtBackend, spec: LaneSpec) -> str:
        raise OutOfMemory("no room for the reference")

    with rig.backend(plans, broken) as backend:
        for _ in range(2):
            with pytest.raises(OutOfMemory):
                backend.open_lanes(SPEC, 1)


def test_a_plan_that_does_not_load_is_rebuilt_once(
    rig: Rig, plans: CachedPlans, messages: list[str]
) -> None:
    with rig.backend(plans) as backend:
        backend.open_lanes(SPEC, 1)
    rig.refuse_loads = 2  # without the lock, and again under it
    with rig.backend(plans) as backend:
        assert len(backend.open_lanes(SPEC, 1)) == 1
    assert "set aside" in messages[0]
    rig.refuse_loads = 9
    with rig.backend(plans) as backend, pytest.raises(PlanError, match="does not load"):
        backend.open_lanes(SPEC, 1)


def test_contexts_of_many_shapes_do_not_pile_up(rig: Rig, plans: CachedPlans) -> None:
    with rig.backend(plans) as backend:
        kept = backend.open_lanes(SPEC, 1)
        for height in range(1, 12):
            for lane in backend.open_lanes(LaneSpec(height, 4), 1):
                lane.close()
        alive = [loaded for loaded in rig.loaded if not loaded.released]
        assert len(alive) <= KEPT_SHAPES + 1
        (frame,) = frames_of(1)
        kept[0].start(frame)
        np.testing.assert_array_equal(kept[0].finish(), enlarge(frame))


def test_lanes_that_do_not_fit_are_all_given_back(rig: Rig, plans: CachedPlans) -> None:
    with rig.backend(plans) as backend:
        backend.open_lanes(SPEC, 1)[0].close()
        rig.cuda.capacity = 3 * 17 * SPEC.height * SPEC.width * 3
        before = rig.cuda.free_bytes()
        with pytest.raises(OutOfMemory):
            backend.open_lanes(SPEC, 4)
        assert rig.cuda.free_bytes() == before


def test_the_memory_of_the_gpu_is_known_until_it_is_lost(rig: Rig, plans: CachedPlans) -> None:
    with rig.backend(plans) as backend, Upscaler(backend) as upscaler:
        rig.cuda.capacity = total = rig.cuda.facts.memory_bytes
        assert upscaler.memory_use() == MemoryUse(total - rig.cuda.free_bytes(), total)
        before = upscaler.memory_use()
        lanes = backend.open_lanes(SPEC, 1)
        after = upscaler.memory_use()
        assert before is not None
        assert after is not None
        assert after.used_bytes > before.used_bytes
        lanes[0].close()
    with pytest.raises(EngineFault):
        backend.memory_use()


def test_frames_larger_than_1024_by_1024_go_through_in_strips_of_one_plan(
    rig: Rig, plans: CachedPlans
) -> None:
    rows = np.arange(1080, dtype=np.uint16)[:, None]
    y = np.broadcast_to((rows % 251).astype(np.uint8), (1080, 1920))
    uv = np.broadcast_to((rows[:540, :, None] % 241).astype(np.uint8), (540, 960, 2))
    with rig.backend(plans) as backend, Upscaler(backend, guard=False) as upscaler:
        found = upscaler.upscale(Nv12(y, uv))
        assert isinstance(found, Nv12)
        np.testing.assert_array_equal(found.y[:, ::640], y.repeat(4, axis=0)[:, ::160])
        np.testing.assert_array_equal(found.uv[:, ::640], uv.repeat(4, axis=0)[:, ::160])
        (loaded,) = rig.loaded
        window, halo = loaded.spec, backend.info.halo + 1
        assert window.width == 1920
        assert backend.info.max_pixels == 1024 * 1024
        aligned = (ALIGNMENT - 1) * 1920  # strips may be that much larger, to begin alike
        assert window.height * window.width <= backend.info.max_pixels + aligned
        kept = window.height - 2 * halo
        assert -(-(1080 - 2 * halo) // kept) == 3
        record = backend._newest.record if backend._newest else None
    assert record is not None
    assert record.key.profile == Profile.static(window.height, 1920)
    assert upscaler.host_only(LaneSpec(1080, 1920, "nv12")) == (
        "1920x1080 frames go through in strips"
    )


def test_a_dynamic_plan_serves_the_sizes_of_its_profile_and_no_other(
    rig: Rig, tmp_path: Path, messages: list[str]
) -> None:
    profile = Profile((64, 64), (64, 96), (128, 128))
    maker = QuickMaker(rig.runtime(), MODEL, Target("7.5"), BuildOptions(profile=profile))
    write_plan(tmp_path / "dynamic.plan", maker.make(LaneSpec(64, 96)))
    plans = PlanFile(tmp_path / "dynamic.plan", maker, messages.append)
    with rig.backend(plans) as backend:
        for size in ((64, 64), (100, 127), (128, 128)):
            spec = LaneSpec(*size)
            frame = frames_of(1, spec)[0]
            (lane,) = backend.open_lanes(spec, 1)
            lane.start(frame)
            np.testing.assert_array_equal(lane.finish(), enlarge(frame))
        with pytest.raises(
            ContractError, match=r"takes rgb24 frames of \(64, 64\) to \(128, 128\)"
        ):
            backend.open_lanes(LaneSpec(130, 64), 1)


def test_frames_stay_on_the_gpu_and_are_gated_like_those_that_come_back(
    rig: Rig, plans: CachedPlans
) -> None:
    spec = LaneSpec(8, 16, "nv12")
    frames = [
        Nv12(np.full((8, 16), level, np.uint8), np.full((4, 8, 2), 128, np.uint8))
        for level in (10, 60, 200)
    ]
    with rig.backend(plans) as backend:
        upscaler = Upscaler(backend, lanes=2)
        assert upscaler.host_only(spec) == ""
        for frame, found in zip(frames, upscaler.stream_on_device(frames, spec), strict=True):
            rows = rig.cuda.at(found.y.address, found.y.rows * found.y.row_bytes)
            assert set(rows.tolist()) == {int(frame.y[0, 0])}
        assert rig.gated == [spec]
        assert len(rig.loaded) == 1
    assert all(memory.freed for memory in rig.cuda.memories)


def test_a_closed_backend_says_so(rig: Rig, plans: CachedPlans) -> None:
    backend = rig.backend(plans)
    backend.close()
    backend.close()
    with pytest.raises(EngineFault, match="closed"):
        backend.open_lanes(SPEC, 1)


def test_the_backend_says_what_it_runs_on(rig: Rig, plans: CachedPlans) -> None:
    with rig.backend(plans) as backend:
        info = backend.info
    assert (info.name, info.version, info.device) == ("tensorrt_rtx", "1.7.1.116", "Tesla T4")
    assert (info.precision, info.model, info.halo) == ("fp16", "fast", 17)
    assert info.detail["async_engines"] == "3"
    assert info.plan_sha256 == ""


def test_without_a_library_or_a_gpu_opening_is_one_sentence(tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    with pytest.raises(BackendUnavailable, match=r"tensorrt is not installed: pip install '\.\[te"):
        tensorrt.runtime(missing)
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (works without a GPU)")

    def no_gpu() -> FakeCuda:
        raise BackendUnavailable("no GPU")

    with pytest.raises(BackendUnavailable, match="no GPU"):
        open_gpu_backend("tensorrt_rtx", MODEL, open_gpu=no_gpu)

    def hopper() -> FakeCuda:
        return FakeCuda(facts=replace(T4, compute_capability="9.0"))

    options = GpuOptions(cache_dir=tmp_path / "plans")
    with pytest.raises(BackendUnavailable, match=r"no plan for compute capability 9\.0"):
        open_gpu_backend("tensorrt_rtx", MODEL, options, open_gpu=hopper)


def test_model_auto_on_a_gpu_is_chosen_by_its_proofs_and_says_why(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (works without a GPU)")
    options = GpuOptions(cache_dir=tmp_path / "plans", reason="auto: tensorrt_rtx runs here")
    with open_gpu_backend("tensorrt_rtx", None, options, open_gpu=FakeCuda) as backend:
        info = backend.info
    assert info.model == "balanced"
    assert info.detail["reason"] == (
        "auto: tensorrt_rtx runs here; model auto: balanced, no width has a proof of 60 fps on "
        "this GPU"
    )
    assert model_of(info, "auto").name == "balanced"


def test_a_driver_older_than_the_library_is_told_before_any_plan_is_touched(
    rig: Rig,
) -> None:
    for driver in ("13.0", "14.1"):
        check_driver(rig.runtime(), replace(T4, driver_version=driver))
    with pytest.raises(BackendUnavailable, match=r"made for CUDA 13 and the driver speaks 12\.4"):
        check_driver(rig.runtime(), replace(T4, driver_version="12.4"))


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="a driver is here: see tests/gpu")
def test_with_the_real_library_and_no_driver_the_plan_is_built_but_not_loaded(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (works without a GPU)")
    said: list[str] = []
    options = GpuOptions(cache_dir=tmp_path / "plans", notify=said.append)
    with (
        open_gpu_backend("tensorrt_rtx", MODEL, options, open_gpu=FakeCuda) as backend,
        pytest.raises(PlanError, match=r"does not load with TensorRT .* CUDA driver version is"),
    ):
        backend.open_lanes(LaneSpec(32, 32), 1)
    assert list((tmp_path / "plans").glob("*.plan")) == []


def test_a_plan_file_names_its_model_and_its_frames(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (works without a GPU)")
    maker = PlanMaker(runtime_named("tensorrt_rtx"), MODEL, Target("7.5"))
    path = tmp_path / "fast.plan"
    write_plan(path, maker.make(LaneSpec(24, 32, "nv12")))
    options = GpuOptions(cache_dir=tmp_path / "plans")
    backend, model, spec = open_plan(path, options, open_gpu=FakeCuda)
    backend.close()
    assert (model.sha256, spec) == (MODEL.sha256, LaneSpec(24, 32, "nv12"))
    path.write_bytes(b"x")
    with pytest.raises(PlanError, match="not those its JSON names"):
        open_plan(path, options, open_gpu=FakeCuda)
