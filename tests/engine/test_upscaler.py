"""Order, overlap and tidiness, on fakes; sizes and colours, on the real CPU lane."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.base import LaneSpec
from engine.backends.nearest import NearestBackend, enlarge
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.errors import ContractError, EngineFault, OutOfMemory
from engine.frames import Bytes, Nv12
from engine.gate_frames import to_nv12, to_rgb24
from engine.models import load_model
from engine.upscaler import Upscaler
from tests.engine.fakes import FakeBackend

SPEC = LaneSpec(8, 8)


def numbered(count: int) -> list[Bytes]:
    return [np.full((8, 8, 3), index, np.uint8) for index in range(count)]


def numbers(frames: list[object]) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames if isinstance(frame, np.ndarray)]


@given(count=st.integers(0, 20), lanes=st.integers(1, 5), copy=st.booleans())
def test_every_frame_comes_out_once_in_order_with_all_lanes_busy(
    count: int, lanes: int, copy: bool
) -> None:
    backend = FakeBackend()
    with Upscaler(backend, lanes) as upscaler:
        found = [int(f[0, 0, 0]) for f in upscaler.stream(numbered(count), SPEC, copy=copy)]
    assert found == list(range(count))
    assert backend.most_in_flight == min(count, lanes)
    assert backend.open_count == 0
    assert backend.closed == 1


@given(count=st.integers(1, 12), lanes=st.integers(1, 4))
def test_results_belong_to_the_caller(count: int, lanes: int) -> None:
    results = list(Upscaler(FakeBackend(), lanes).stream(numbered(count), SPEC))
    assert numbers(results) == list(range(count))


@given(
    at=st.integers(0, 9),
    lanes=st.integers(1, 4),
    where=st.sampled_from(["source", "start", "finish"]),
)
def test_a_failure_surfaces_at_its_frame_after_all_earlier_results(
    at: int, lanes: int, where: str
) -> None:
    backend = FakeBackend(
        fail_start=at if where == "start" else None, fail_finish=at if where == "finish" else None
    )

    def source() -> Iterator[Bytes]:
        for index, frame in enumerate(numbered(10)):
            if where == "source" and index == at:
                raise RuntimeError("the decoder died")
            yield frame

    found: list[object] = []
    with Upscaler(backend, lanes) as upscaler:
        stream = upscaler.stream(source(), SPEC)
        with pytest.raises((RuntimeError, EngineFault), match=r"died|failed"):
            found.extend(stream)
    assert numbers(found) == list(range(at))
    assert backend.open_count == 0


@given(taken=st.integers(0, 6), lanes=st.integers(1, 4))
def test_lanes_are_closed_when_the_consumer_stops_early(taken: int, lanes: int) -> None:
    backend = FakeBackend()
    with Upscaler(backend, lanes) as upscaler:
        stream = upscaler.stream(iter(numbered(10)), SPEC)
        for _ in range(taken):
            next(stream)
        stream.close()
        assert backend.open_count == 0


def test_a_frame_of_another_shape_is_refused_at_its_place() -> None:
    frames = [*numbered(3), np.zeros((9, 8, 3), np.uint8)]
    with Upscaler(NearestBackend()) as upscaler:
        stream = upscaler.stream(frames, SPEC)
        assert numbers([next(stream) for _ in range(3)]) == [0, 1, 2]
        with pytest.raises(ContractError, match="takes rgb24 frames of 8x8, got rgb24 of 8x9"):
            next(stream)


def test_a_taller_frame_is_refused_in_strips_too() -> None:
    with Upscaler(FakeBackend(), max_pixels=80) as upscaler:
        stream = upscaler.stream([np.zeros((44, 8, 3), np.uint8)], LaneSpec(40, 8))
        with pytest.raises(ContractError, match="takes rgb24 frames of 8x40, got rgb24 of 8x44"):
            next(stream)


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 12),
    limit=st.integers(1, 300),
    nv12=st.booleans(),
)
def test_strips_give_the_whole_frame(height: int, width: int, limit: int, nv12: bool) -> None:
    generator = np.random.default_rng(height * 100 + width)
    frame = generator.integers(0, 256, (height, width, 3), np.uint8)
    with Upscaler(FakeBackend(), max_pixels=limit) as upscaler:
        if nv12:
            planes = Nv12(
                frame[..., 0].copy(),
                generator.integers(0, 256, ((height + 1) // 2, (width + 1) // 2, 2), np.uint8),
            )
            found, expected = upscaler.upscale(planes), enlarge(planes)
            assert isinstance(found, Nv12)
            assert isinstance(expected, Nv12)
            np.testing.assert_array_equal(found.y, expected.y)
            np.testing.assert_array_equal(found.uv, expected.uv)
        else:
            np.testing.assert_array_equal(upscaler.upscale(frame), enlarge(frame))


@given(pauses=st.lists(st.integers(0, 3), max_size=12), strips=st.booleans())
def test_a_live_source_gets_every_result_before_it_is_asked_to_wait(
    pauses: list[int], strips: bool
) -> None:
    found: list[int] = []

    def source() -> Iterator[Bytes | None]:
        for index, pause in enumerate(pauses):
            for _ in range(pause):  # nothing there yet: what is in flight must come out
                if len(found) < index:
                    before = len(found)
                    yield None
                    assert len(found) > before
            yield np.full((40, 8, 3), index, np.uint8)

    limit = 80 if strips else None
    with Upscaler(FakeBackend(), max_pixels=limit) as upscaler:
        for result in upscaler.stream(source(), LaneSpec(40, 8)):
            assert isinstance(result, np.ndarray)
            found.append(int(result[0, 0, 0]))
    assert found == list(range(len(pauses)))


def test_large_frames_stream_in_strips_in_order() -> None:
    backend = FakeBackend()
    frames = [np.full((40, 8, 3), index, np.uint8) for index in range(5)]
    with Upscaler(backend, max_pixels=80) as upscaler:
        results = list(upscaler.stream(frames, LaneSpec(40, 8)))
    assert numbers(results) == [0, 1, 2, 3, 4]
    assert {r.shape for r in results} == {(160, 32, 3)}
    assert backend.most_in_flight == 2
    assert backend.open_count == 0


def test_smaller_strips_are_tried_when_memory_runs_out() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 8, 3), np.uint8)
    with Upscaler(FakeBackend(memory_for_pixels=150)) as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(frame), enlarge(frame))
    with Upscaler(FakeBackend(memory_for_pixels=10)) as upscaler, pytest.raises(OutOfMemory):
        upscaler.upscale(frame)


def test_a_stream_opens_smaller_lanes_when_memory_runs_out() -> None:
    frames = [np.full((64, 8, 3), index, np.uint8) for index in range(3)]
    backend = FakeBackend(memory_for_pixels=150)
    with Upscaler(backend) as upscaler:
        results = list(upscaler.stream(frames, LaneSpec(64, 8)))
    assert numbers(results) == [0, 1, 2]
    assert {r.shape for r in results if isinstance(r, np.ndarray)} == {(256, 32, 3)}
    backend = FakeBackend(memory_for_pixels=10)
    with Upscaler(backend) as upscaler, pytest.raises(OutOfMemory):
        next(upscaler.stream(frames, LaneSpec(64, 8)))


def test_a_frame_without_pixels_is_refused() -> None:
    with Upscaler(NearestBackend()) as upscaler, pytest.raises(ContractError, match="one pixel"):
        upscaler.upscale(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ContractError, match="one pixel"):
        Nv12(np.zeros((0, 4), np.uint8), np.zeros((0, 2, 2), np.uint8))


def test_a_wrong_result_is_refused_and_its_lanes_dropped() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    backend = FakeBackend(make=lambda _: np.zeros((64, 64, 3), np.uint8))
    with Upscaler(backend) as upscaler:
        with pytest.raises(EngineFault, match="does not resemble it"):
            upscaler.upscale(frame)
        with pytest.raises(EngineFault, match="does not resemble it"):
            next(upscaler.stream([frame, frame], LaneSpec(16, 16)))
        assert backend.open_count == 0
    with Upscaler(backend, guard=False) as unguarded:
        assert isinstance(unguarded.upscale(frame), np.ndarray)


def test_pictures_of_one_shape_share_a_lane() -> None:
    backend = FakeBackend()
    with Upscaler(backend) as upscaler:
        for frame in numbered(3):
            upscaler.upscale(frame)
        assert len(backend.lanes) == 1
        upscaler.upscale(np.zeros((4, 4, 3), np.uint8))
        assert [lane.closed for lane in backend.lanes] == [True, False]
    assert backend.open_count == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (7, 5), (16, 33)])
def test_any_size_becomes_exactly_four_times_larger(size: tuple[int, int]) -> None:
    height, width = size
    frame = np.full((height, width, 3), 128, np.uint8)
    with Upscaler(OnnxRuntimeBackend(load_model("fast", allow_untrained=True), 1)) as upscaler:
        made = upscaler.upscale(frame)
        planes = upscaler.upscale(to_nv12(frame))
    assert isinstance(made, np.ndarray)
    assert isinstance(planes, Nv12)
    assert made.shape == (4 * height, 4 * width, 3)
    assert planes.y.shape == (4 * height, 4 * width)
    assert planes.uv.shape == (2 * height, 2 * width, 2)


@pytest.mark.parametrize(("matrix", "full_range"), [("bt601", False), ("bt709", True)])
@pytest.mark.parametrize("colour", [(230, 20, 30), (25, 30, 220)])
def test_red_stays_red_and_blue_stays_blue(
    colour: tuple[int, int, int], matrix: str, full_range: bool
) -> None:
    frame = np.full((24, 24, 3), colour, np.uint8)
    with Upscaler(OnnxRuntimeBackend(load_model("fast", allow_untrained=True), 1)) as upscaler:
        made = upscaler.upscale(frame)
        planes = upscaler.upscale(
            to_nv12(frame, matrix, full_range), matrix=matrix, full_range=full_range
        )
    assert isinstance(made, np.ndarray)
    assert isinstance(planes, Nv12)
    for result in (made, to_rgb24(planes, matrix, full_range)):
        assert np.abs(result[8:-8, 8:-8].mean((0, 1)) - colour).max() < 8
