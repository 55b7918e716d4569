"""GPU lanes on a fake GPU that runs queued work as late and as oddly as CUDA may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends.base import LaneSpec
from engine.backends.cuda_lane import ALIGNMENT, CudaLane, Layout, Slot, Streams
from engine.backends.cuda_thread import GpuThread
from engine.backends.nearest import enlarge
from engine.backends.tensor_shapes import input_shapes, output_shapes
from engine.errors import ContractError, EngineFault, OutOfMemory
from engine.frames import Bytes, Frame, Nv12
from tests.engine.fake_cuda import FakeCuda

SPECS = [LaneSpec(5, 6), LaneSpec(4, 6, "nv12"), LaneSpec(5, 3, "nv12")]


@dataclass
class FakeNetwork:
    """Enlarges by repetition, on the fake GPU's compute stream."""

    gpu: FakeCuda
    spec: LaneSpec

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        size = (self.spec.height, self.spec.width)
        inputs, outputs = (
            input_shapes(self.spec.format, size),
            output_shapes(self.spec.format, size),
        )
        assert all(address % ALIGNMENT == 0 for address in addresses.values())

        def run() -> None:
            given = [self._tensor(addresses[name], shape) for name, shape in inputs.items()]
            made = enlarge(given[0] if len(given) == 1 else Nv12(given[0], given[1]))
            planes = [made.y, made.uv] if isinstance(made, Nv12) else [made]
            for (name, shape), plane in zip(outputs.items(), planes, strict=True):
                self._tensor(addresses[name], shape)[...] = plane

        self.gpu._enter("enqueue")
        self.gpu.queue(self.gpu.streams[stream], run)

    def _tensor(self, address: int, shape: tuple[int, ...]) -> Bytes:
        return self.gpu.at(address, int(np.prod(shape))).reshape(shape)


@dataclass
class Rig:
    gpu: FakeCuda
    thread: GpuThread
    lanes: list[CudaLane]

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        self.thread.close()


def rig(spec: LaneSpec, lanes: int, choose: Callable[[int], int] = lambda count: 0) -> Rig:
    devices: list[FakeCuda] = []

    def open_device() -> FakeCuda:
        devices.append(FakeCuda(choose))
        return devices[0]

    thread = GpuThread(open_device)
    streams = thread.call(Streams.open)
    network = FakeNetwork(devices[0], spec)
    return Rig(devices[0], thread, [CudaLane(thread, streams, network, spec) for _ in range(lanes)])


def frame_of(spec: LaneSpec, number: int) -> Frame:
    draw = np.random.default_rng(number)
    planes = [
        draw.integers(0, 256, shape, np.uint8)
        for shape in input_shapes(spec.format, (spec.height, spec.width)).values()
    ]
    return planes[0] if len(planes) == 1 else Nv12(planes[0], planes[1])


def assert_same(one: Frame, other: Frame) -> None:
    if isinstance(one, Nv12) and isinstance(other, Nv12):
        np.testing.assert_array_equal(one.y, other.y)
        np.testing.assert_array_equal(one.uv, other.uv)
    else:
        np.testing.assert_array_equal(one, other)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(data=st.data(), spec=st.sampled_from(SPECS), count=st.integers(1, 4))
def test_every_frame_comes_out_right_whatever_the_streams_do(
    data: st.DataObject, spec: LaneSpec, count: int
) -> None:
    choices = data.draw(st.randoms(use_true_random=False))
    lanes_up = rig(spec, count, choices.randrange)
    try:
        busy: list[tuple[CudaLane, Frame]] = []
        for number in range(12):
            if len(busy) == count:
                lane, frame = busy.pop(data.draw(st.integers(0, count - 1)))
                assert_same(lane.finish(), enlarge(frame))
            lane = next(lane for lane in lanes_up.lanes if lane not in [one for one, _ in busy])
            frame = frame_of(spec, number)
            lane.start(frame)
            busy.append((lane, frame))
        for lane, frame in busy:
            assert_same(lane.finish(), enlarge(frame))
            assert set(lane.stages_ms) == {"copy_in", "compute", "copy_out"}
            assert all(value > 0 for value in lane.stages_ms.values())
    finally:
        lanes_up.close()
    assert all(memory.freed for memory in lanes_up.gpu.memories)


@settings(max_examples=60)
@given(
    skip=st.integers(0, 60),
    failure=st.sampled_from([EngineFault, OutOfMemory]),
    choices=st.randoms(use_true_random=False),
)
def test_an_error_anywhere_ends_the_lane_and_never_gives_a_wrong_frame(
    skip: int, failure: type[EngineFault], choices: object
) -> None:
    spec = SPECS[0]
    lanes_up = rig(spec, 2, choices.randrange)  # type: ignore[attr-defined]
    first, second = lanes_up.lanes
    lanes_up.gpu.failure = failure
    lanes_up.gpu.fail_at = lanes_up.gpu.calls + 1 + skip
    try:
        for number in range(3):
            frames = [frame_of(spec, 2 * number), frame_of(spec, 2 * number + 1)]
            first.start(frames[0])
            second.start(frames[1])
            assert_same(first.finish(), enlarge(frames[0]))
            assert_same(second.finish(), enlarge(frames[1]))
        raised = False
    except EngineFault as error:
        raised = type(error) is failure
        assert raised
    sticky = raised and failure is EngineFault
    assert bool(lanes_up.thread.fault) == sticky
    if sticky:
        with pytest.raises(EngineFault):
            second.start(frame_of(spec, 0))
    lanes_up.gpu.fail_at = None if failure is OutOfMemory else lanes_up.gpu.fail_at
    lanes_up.close()
    assert sticky or all(memory.freed for memory in lanes_up.gpu.memories) or not raised


def test_streams_are_chained_by_events_and_shared_by_lanes() -> None:
    lanes_up = rig(SPECS[0], 3)
    assert len(lanes_up.gpu.streams) == 3
    lanes_up.gpu.log.clear()
    lanes_up.lanes[0].start(frame_of(SPECS[0], 1))
    work = [name for name in lanes_up.gpu.log if name != "record"]
    assert work == ["copy_in", "wait", "enqueue", "wait", "copy_out"]
    lanes_up.close()


def test_starting_does_not_wait_for_the_gpu() -> None:
    lanes_up = rig(SPECS[0], 2)
    lanes_up.gpu.log.clear()
    for number, lane in enumerate(lanes_up.lanes):
        lane.start(frame_of(SPECS[0], number))
    assert "synchronize" not in lanes_up.gpu.log
    lanes_up.close()


def test_memory_is_constant_after_the_lanes_are_open() -> None:
    lanes_up = rig(SPECS[1], 2)
    before = lanes_up.gpu.free_bytes()
    for number in range(10):
        lanes_up.lanes[number % 2].start(frame_of(SPECS[1], number))
        lanes_up.lanes[number % 2].finish()
        assert lanes_up.gpu.free_bytes() == before
    lanes_up.close()


def test_a_strided_frame_is_taken_as_it_is() -> None:
    lanes_up = rig(SPECS[0], 1)
    wide = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    lanes_up.lanes[0].start(wide[::2, ::2])
    assert_same(lanes_up.lanes[0].finish(), enlarge(wide[::2, ::2]))
    lanes_up.close()


def test_misuse_is_told_apart_from_a_broken_gpu() -> None:
    lanes_up = rig(SPECS[0], 1)
    (lane,) = lanes_up.lanes
    with pytest.raises(ContractError, match="the lane takes rgb24 frames of 6x5"):
        lane.start(np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(EngineFault, match="never started"):
        lane.finish()
    lane.start(frame_of(SPECS[0], 0))
    with pytest.raises(EngineFault, match="still busy"):
        lane.start(frame_of(SPECS[0], 1))
    assert_same(lane.finish(), enlarge(frame_of(SPECS[0], 0)))
    lane.close()
    lane.close()
    with pytest.raises(EngineFault, match="closed or broken"):
        lane.start(frame_of(SPECS[0], 0))
    lanes_up.close()


def test_closing_a_busy_lane_waits_for_its_frame() -> None:
    lanes_up = rig(SPECS[0], 2)
    for lane in lanes_up.lanes:
        lane.start(frame_of(SPECS[0], 0))
    lanes_up.lanes[0].close()
    lanes_up.lanes[1].close()
    assert all(memory.freed for memory in lanes_up.gpu.memories)
    lanes_up.close()


def test_a_slot_that_does_not_fit_leaves_nothing_behind() -> None:
    gpu = FakeCuda(capacity=200)
    with pytest.raises(OutOfMemory):
        Slot(gpu, LaneSpec(8, 8))
    assert gpu.free_bytes() == 200


def test_planes_lie_in_one_buffer_without_overlap() -> None:
    layout = Layout.of({"a": (3, 5), "b": (2, 2, 2)})
    assert layout.offsets == {"a": 0, "b": ALIGNMENT}
    assert layout.size_bytes == ALIGNMENT + 8
    buffer = np.zeros(layout.size_bytes, np.uint8)
    layout.view(buffer, "b")[...] = 7
    assert buffer.sum() == 8 * 7
    assert layout.addresses(4096) == {"a": 4096, "b": 4096 + ALIGNMENT}
