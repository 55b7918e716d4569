"""The PyCUDA module on a real GPU."""

from __future__ import annotations

import numpy as np
import pytest

from engine.backends.cuda_thread import AnyDevice, GpuThread
from engine.errors import OutOfMemory

pytestmark = pytest.mark.gpu


def test_the_driver_says_what_the_gpu_is(gpu: GpuThread) -> None:
    facts = gpu.facts
    assert facts.name
    assert float(facts.compute_capability) >= 7.5
    assert facts.multiprocessors > 0
    assert facts.async_engines >= 1
    print(facts)


def test_bytes_survive_the_round_trip_and_events_tell_its_time(gpu: GpuThread) -> None:
    size_bytes = 1 << 26

    def round_trip(device: AnyDevice) -> tuple[bool, float]:
        stream, first, last = device.stream(), device.event(), device.event()
        source, target = device.pinned(size_bytes), device.pinned(size_bytes)
        source[:] = np.random.default_rng(0).integers(0, 256, size_bytes, np.uint8)
        memory = device.memory(size_bytes)
        assert device.address(memory) % 256 == 0
        device.record(first, stream)
        device.copy_in(memory, source, stream)
        device.copy_out(target, memory, stream)
        device.record(last, stream)
        device.synchronize(last)
        device.free(memory)
        return bool(np.array_equal(source, target)), device.elapsed_ms(first, last)

    equal, elapsed_ms = gpu.call(round_trip)
    assert equal
    assert elapsed_ms > 0
    print(f"{2 * size_bytes / elapsed_ms / 1e6:.1f} GB/s there and back")


def test_streams_wait_for_events(gpu: GpuThread) -> None:
    size_bytes = 1 << 26

    def chained(device: AnyDevice) -> bool:
        streams, done = [device.stream(), device.stream()], [device.event(), device.event()]
        source, target = device.pinned(size_bytes), device.pinned(size_bytes)
        memory = device.memory(size_bytes)
        good = True
        for value in range(8):
            source[:] = value
            device.copy_in(memory, source, streams[0])
            device.record(done[0], streams[0])
            device.wait(streams[1], done[0])
            device.copy_out(target, memory, streams[1])
            device.record(done[1], streams[1])
            device.synchronize(done[1])
            good = good and bool((target == value).all())
        device.free(memory)
        return good

    assert gpu.call(chained)


def test_lack_of_memory_is_no_fault(gpu: GpuThread) -> None:
    with pytest.raises(OutOfMemory):
        gpu.call(lambda device: device.memory(1 << 50))
    assert gpu.fault == ""
    free = gpu.call(lambda device: device.free_bytes())
    assert free > 0
