"""The C kernels compute what ONNX Runtime computes, in any shape, on any number of threads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends import winograd_library
from engine.backends.base import Backend, LaneSpec
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.backends.winograd import WinogradBackend
from engine.backends.winograd_library import LEVELS, Library
from engine.errors import BackendUnavailable, ContractError, EngineFault
from engine.frames import Bytes, Frame, Nv12, copy_frame
from engine.gate_frames import gate_frames
from engine.models import load_model
from engine.upscaler import Upscaler
from engine.verify import score
from tests.engine.fakes import noisy_model
from tests.server.live import wait_until

BEST = Library().best_level
LEVELS_HERE = [level for level in LEVELS if level == BEST or 1 < level < BEST]
SPEC = LaneSpec(20, 24)


@pytest.fixture
def backend() -> Iterator[WinogradBackend]:
    with WinogradBackend(noisy_model(), 2) as opened:
        yield opened


def run(backend: Backend, spec: LaneSpec, frame: Frame) -> Frame:
    (lane,) = backend.open_lanes(spec, 1)
    lane.start(frame)
    result = copy_frame(lane.finish())
    lane.close()
    return result


def noise(spec: LaneSpec, seed: int) -> Frame:
    generator = np.random.default_rng(seed)
    height, width = spec.height, spec.width
    if spec.format == "rgb24":
        return generator.integers(0, 256, (height, width, 3), np.uint8)
    chroma = ((height + 1) // 2, (width + 1) // 2, 2)
    return Nv12(
        generator.integers(0, 256, (height, width), np.uint8),
        generator.integers(0, 256, chroma, np.uint8),
    )


def flat(frame: Frame) -> Bytes:
    planes = (frame.y, frame.uv) if isinstance(frame, Nv12) else (frame,)
    return np.concatenate([plane.reshape(-1) for plane in planes])


specs = st.builds(
    LaneSpec,
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["rgb24", "nv12"]),
    st.sampled_from(["bt601", "bt709", "bt2020"]),
    st.booleans(),
)


@settings(max_examples=40)
@given(
    spec=specs,
    width=st.sampled_from([5, 16, 24, 32, 40]),
    skip=st.sampled_from([0, 2]),
    activation=st.sampled_from(["relu", "leaky_relu"]),
    threads=st.integers(1, 3),
    level=st.sampled_from(LEVELS_HERE),
)
def test_any_network_and_any_frame_equal_onnx_runtime(
    spec: LaneSpec, width: int, skip: int, activation: str, threads: int, level: int
) -> None:
    model = noisy_model(
        seed=width, width=width, body=4, skip_every=skip, activation=activation, scale=0.5
    )
    frame = noise(spec, spec.height * 71 + spec.width)
    with (
        OnnxRuntimeBackend(model, 1) as judge,
        WinogradBackend(model, threads, level=level) as ours,
    ):
        found = score("noise", run(ours, spec, frame), run(judge, spec, frame))
    assert found.max_difference <= 1
    assert found.psnr_db >= 60


@pytest.mark.parametrize("form", ["rgb24", "nv12"])
def test_the_shipped_weights_pass_on_natural_and_hostile_frames(form: str) -> None:
    model, spec = load_model("fast"), LaneSpec(37, 50, form)  # type: ignore[arg-type]
    with OnnxRuntimeBackend(model, 1) as judge, WinogradBackend(model) as ours:
        for made in gate_frames(spec):
            found = score(made.name, run(ours, spec, made.frame), run(judge, spec, made.frame))
            assert found.max_difference <= 1, made.name
            assert found.psnr_db >= 60, made.name


def test_the_number_of_threads_changes_no_byte() -> None:
    spec = LaneSpec(67, 130)
    results = []
    for threads in (1, 2, 5):
        with WinogradBackend(load_model("fast"), threads) as opened:
            results += [flat(run(opened, spec, noise(spec, 3))) for _ in range(3)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@settings(max_examples=20)
@given(
    height=st.integers(20, 95),
    width=st.integers(3, 40),
    rows=st.integers(1, 60),
    nv12=st.booleans(),
)
def test_strips_equal_the_whole_frame(height: int, width: int, rows: int, nv12: bool) -> None:
    backend = WinogradBackend(noisy_model(seed=height, body=4, width=16), 2)
    frame = noise(LaneSpec(height, width, "nv12" if nv12 else "rgb24"), rows)
    with Upscaler(backend, guard=False) as whole:
        expected = whole.upscale(frame)
        found = Upscaler(backend, guard=False, max_pixels=rows * width).upscale(frame)
    np.testing.assert_array_equal(flat(found), flat(expected))


def test_lanes_do_not_share_results_and_write_into_the_same_memory(
    backend: WinogradBackend,
) -> None:
    frames = [noise(SPEC, seed) for seed in range(3)]
    expected = [flat(run(backend, SPEC, frame)) for frame in frames]
    lanes = backend.open_lanes(SPEC, 3)
    addresses = set()
    for _ in range(2):
        for lane, frame in zip(lanes, frames, strict=True):
            lane.start(frame)
        for lane, wanted in zip(lanes, expected, strict=True):
            made = lane.finish()
            np.testing.assert_array_equal(flat(made), wanted)
            assert isinstance(made, np.ndarray)
            addresses.add(made.ctypes.data)
    assert len(addresses) == 3


def test_strided_frames_are_read_correctly(backend: WinogradBackend) -> None:
    frame = noise(SPEC, 0)
    assert isinstance(frame, np.ndarray)
    wide = np.repeat(frame, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(run(backend, SPEC, wide), run(backend, SPEC, frame))


def test_misuse_of_a_lane_is_refused(backend: WinogradBackend) -> None:
    (lane,) = backend.open_lanes(SPEC, 1)
    with pytest.raises(EngineFault, match="never started"):
        lane.finish()
    with pytest.raises(ContractError, match="takes rgb24 frames of 24x20"):
        lane.start(np.zeros((20, 25, 3), np.uint8))
    lane.start(noise(SPEC, 0))
    with pytest.raises(EngineFault, match="still busy"):
        lane.start(noise(SPEC, 1))
    lane.close()
    lane.close()
    with pytest.raises(EngineFault, match="closed"):
        lane.start(noise(SPEC, 0))


def test_closing_the_backend_closes_its_lanes_with_frames_in_flight() -> None:
    backend = WinogradBackend(noisy_model(), 2)
    lanes = backend.open_lanes(SPEC, 2)
    for lane in lanes:
        lane.start(noise(SPEC, 0))
    backend.close()
    backend.close()
    for lane in lanes:
        with pytest.raises(EngineFault, match="closed"):
            lane.start(noise(SPEC, 0))


def test_info_says_who_runs_what(backend: WinogradBackend) -> None:
    info = backend.info
    assert (info.name, info.model, info.halo, info.precision) == ("winograd", "noisy", 24, "fp32")
    assert info.device.endswith("(2 threads)")
    assert info.detail["instructions"] == LEVELS[BEST]
    assert len(info.onnx_sha256) == 64


def test_what_this_machine_cannot_do_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="threads must be at least 1, got 0"):
        WinogradBackend(noisy_model(), 0)
    with pytest.raises(BackendUnavailable, match="no level 9"):
        WinogradBackend(noisy_model(), 1, level=9)


def test_a_library_of_other_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(winograd_library.LIBRARY, tmp_path)
    monkeypatch.setattr(winograd_library, "LIBRARY", tmp_path / "winograd.so")
    with pytest.raises(BackendUnavailable, match="compiled from other sources"):
        WinogradBackend(noisy_model(), 1)


def test_many_frames_and_lanes_leave_no_memory_behind() -> None:
    process = psutil.Process()
    spec = LaneSpec(120, 200)
    with WinogradBackend(noisy_model(width=16), 2) as opened:
        run(opened, spec, noise(spec, 0))
        threads, before = process.num_threads(), process.memory_info().rss
        for seed in range(40):
            run(opened, spec, noise(spec, seed))
        grown = process.memory_info().rss - before
        assert process.num_threads() == threads
    # The working memory of one plan alone is over 4 MB.
    assert grown < 8 << 20
    # The kernel counts a thread that was joined for a moment longer.
    wait_until(lambda: process.num_threads() < threads, "threads that have ended")
