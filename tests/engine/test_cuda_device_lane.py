"""Lanes whose results stay on the GPU, on a fake one that runs queued work as oddly as it may."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends.base import LaneSpec
from engine.backends.cuda_device_lane import BAND_ROWS, CudaDeviceLane, CudaMemory
from engine.backends.cuda_lane import Streams
from engine.backends.cuda_thread import GpuThread
from engine.backends.nearest import enlarge
from engine.contract import SCALE
from engine.device import AnyFrame, DeviceNv12
from engine.device_stream import stream_on_device
from engine.dlpack import Plane
from engine.errors import ContractError, EngineFault
from engine.frames import Nv12
from tests.engine.fake_cuda import FakeCuda
from tests.engine.test_cuda_lane import FakeNetwork, frame_of

SPEC = LaneSpec(36, 16, "nv12")


class Rig:
    """Lanes on a fake GPU, and a decoder's frames in its memory."""

    def __init__(self, count: int, cuda: FakeCuda | None = None) -> None:
        made: list[FakeCuda] = []

        def open_device() -> FakeCuda:
            gpu = FakeCuda() if cuda is None else cuda
            gpu.thread = threading.get_ident()
            made.append(gpu)
            return gpu

        self.thread = GpuThread(open_device)
        self.gpu = made[0]
        self.network = FakeNetwork(self.gpu, SPEC)
        streams = self.thread.call(Streams.open)
        self.lanes = [
            CudaDeviceLane(self.thread, streams, self.network, SPEC) for _ in range(count)
        ]

    def decoded(self, frame: Nv12, pitch: int = 20) -> DeviceNv12:
        """``frame`` in device memory, written by work on the default stream that is still to run:
        whoever reads it without waiting for that stream sees old bytes."""

        def make(gpu: FakeCuda) -> DeviceNv12:
            planes = []
            for samples, plane in ((1, frame.y), (2, frame.uv)):
                rows, row_bytes = plane.shape[0], plane[0].size
                memory = gpu.memory(rows * pitch)
                flat = plane.reshape(rows, row_bytes)

                def decode(data=memory.data, flat=flat) -> None:  # type: ignore[no-untyped-def]
                    data.reshape(-1, pitch)[:, : flat.shape[1]] = flat

                gpu.queue(gpu.default_stream(), decode)
                planes.append(Plane(memory.address, rows, row_bytes, pitch, samples))
            return DeviceNv12(*planes)

        return self.thread.call(make)  # type: ignore[arg-type]

    def read(self, frame: DeviceNv12) -> Nv12:
        """A frame on the device, brought to the host."""
        y, uv = (
            self.gpu.at(plane.address, plane.rows * plane.row_bytes).reshape(plane.shape).copy()
            for plane in (frame.y, frame.uv)
        )
        return Nv12(y, uv)

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        self.thread.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(2)
    yield made
    made.close()


def assert_same(one: Nv12, other: object) -> None:
    assert isinstance(other, Nv12)
    np.testing.assert_array_equal(one.y, other.y)
    np.testing.assert_array_equal(one.uv, other.uv)


@settings(max_examples=30)
@given(choices=st.randoms(use_true_random=False), count=st.integers(1, 3), places=st.integers(0, 7))
def test_frames_of_host_and_device_come_out_right_whatever_the_streams_do(
    choices: object, count: int, places: int
) -> None:
    made = Rig(count, FakeCuda(choices.randrange))  # type: ignore[attr-defined]
    frames = [frame_of(SPEC, number) for number in range(6)]

    def source() -> Iterator[AnyFrame]:
        for number, frame in enumerate(frames):
            assert isinstance(frame, Nv12)
            yield made.decoded(frame) if (places >> number % 3) & 1 else frame

    results = stream_on_device(list(made.lanes), source())
    for frame, result in zip(frames, results, strict=True):
        assert_same(made.read(result), enlarge(frame))
    assert all(lane.closed for lane in made.lanes)
    made.close()


def test_luma_and_chroma_lie_in_one_piece_as_an_encoder_wants_them(rig: Rig) -> None:
    rig.lanes[0].start(frame_of(SPEC, 0))  # type: ignore[arg-type]
    found = rig.lanes[0].finish()
    assert found.y.pitch == found.uv.pitch == SPEC.width * SCALE
    assert found.uv.address == found.y.address + found.y.pitch * found.y.rows
    assert found.y.address % 256 == 0


def test_only_a_band_crosses_to_the_host_and_another_one_each_time(rig: Rig) -> None:
    frame = frame_of(SPEC, 1)
    assert isinstance(frame, Nv12)
    made = enlarge(frame)
    assert isinstance(made, Nv12)
    lane, seen = rig.lanes[0], []
    for _ in range(2):
        rig.gpu.log.clear()
        lane.start(rig.decoded(frame))
        lane.finish()
        assert not {"copy_in", "copy_out"} & set(rig.gpu.log)
        assert rig.gpu.log.count("read") == 2
        pixels, result = (part.copy() for part in lane.band())
        first = [0, SPEC.height - BAND_ROWS][len(seen)]
        np.testing.assert_array_equal(pixels, frame.y[first : first + BAND_ROWS])
        expected = made.y[SCALE * first : SCALE * (first + BAND_ROWS)]
        np.testing.assert_array_equal(result, expected)
        seen.append(pixels)


def test_the_guard_refuses_a_result_that_does_not_resemble_its_frame(rig: Rig) -> None:
    rig.network.enqueue = lambda addresses, stream: None  # type: ignore[method-assign]
    with pytest.raises(EngineFault, match="does not resemble it"):
        list(stream_on_device(list(rig.lanes), [frame_of(SPEC, 0)]))
    assert all(lane.closed for lane in rig.lanes)


def test_what_a_source_raises_comes_after_the_frames_before_it(rig: Rig) -> None:
    def source() -> Iterator[AnyFrame]:
        yield frame_of(SPEC, 0)
        yield frame_of(SPEC, 1)
        raise OSError("the decoder died")

    results = stream_on_device(list(rig.lanes), source())
    assert isinstance(next(results), DeviceNv12)
    assert isinstance(next(results), DeviceNv12)
    with pytest.raises(OSError, match="the decoder died"):
        next(results)


def test_shapes_that_cannot_stay_are_refused(rig: Rig) -> None:
    streams = rig.thread.call(Streams.open)
    for spec in (LaneSpec(36, 24, "nv12"), LaneSpec(36, 16)):
        with pytest.raises(ContractError, match="cannot stay on the device"):
            CudaDeviceLane(rig.thread, streams, rig.network, spec)
    with pytest.raises(ContractError, match="the lane takes nv12 frames of 16x36"):
        rig.lanes[0].start(frame_of(LaneSpec(36, 32, "nv12"), 0))  # type: ignore[arg-type]
    other = DeviceNv12.of(np.zeros((36, 32), np.uint8), np.zeros((18, 16, 2), np.uint8))
    with pytest.raises(ContractError, match="got nv12 of 32x36 on a device"):
        rig.lanes[0].start(other)


def test_a_blank_frame_is_freed_and_work_runs_on_the_gpus_thread(rig: Rig) -> None:
    memory, before = CudaMemory(rig.thread), rig.gpu.free_bytes()
    with memory.blank(144, 64) as frame:
        assert (frame.y.shape, frame.uv.shape) == ((144, 64), (72, 32, 2))
        assert not rig.read(frame).y.any()
        assert rig.gpu.free_bytes() < before
    assert rig.gpu.free_bytes() == before
    assert memory.call(lambda: threading.get_ident()) == rig.gpu.thread
