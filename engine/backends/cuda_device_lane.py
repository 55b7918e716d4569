"""A lane on a GPU whose results stay there, for an encoder that reads device memory.

Frames come from the host or from a decoder's device memory, in which case their rows are copied
close together on the GPU. Only a few rows cross to the host, for the guard. Nobody has run this
on a GPU yet: its logic is tested on a fake one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from engine.backends.base import LaneSpec
from engine.backends.cuda_lane import Compute, Layout, Slot, SlotLane, Streams
from engine.backends.cuda_thread import AnyDevice, GpuThread
from engine.backends.tensor_shapes import output_shapes
from engine.contract import SCALE, UV_INPUT, UV_OUTPUT, Y_INPUT, Y_OUTPUT
from engine.device import AnyFrame, DeviceNv12, Result, check_any_frame, why_not
from engine.dlpack import Plane
from engine.errors import ContractError
from engine.frames import Bytes

BAND_ROWS = 32
"""Input rows that the guard sees of one frame."""


class CudaDeviceLane(SlotLane):
    """One nv12 frame in flight whose result stays on the GPU.

    Args:
        thread: the GPU's thread.
        streams: shared with the other lanes.
        compute: shared with the other lanes; runs on the compute stream only.
        spec: shape of every frame.

    Raises:
        ContractError: such frames cannot stay on the device.
        OutOfMemory: the slot does not fit.
    """

    def __init__(
        self, thread: GpuThread, streams: Streams, compute: Compute, spec: LaneSpec
    ) -> None:
        if reason := why_not(spec.height, spec.width, spec.format):
            raise ContractError(f"results cannot stay on the device: {reason}")
        self._spec = spec
        self._rows = min(BAND_ROWS, spec.height)
        self._turn = 0
        self._in_bytes = self._rows * spec.width
        size_bytes = self._in_bytes * (1 + SCALE * SCALE)
        super().__init__(
            thread, streams, compute, thread.call(lambda device: Slot(device, spec, size_bytes))
        )

    def start(self, frame: AnyFrame) -> None:
        """Queues the work on ``frame``; returns before it runs.

        Raises:
            ContractError: the frame does not fit the lane.
            EngineFault: the lane is closed, busy or broken, or CUDA failed.
        """
        check_any_frame(frame, self._spec)
        self._start(frame)

    def finish(self) -> DeviceNv12:
        """Waits for the frame, which stays on the GPU and is valid until the next ``start``.

        Raises:
            EngineFault: nothing was started, or CUDA failed; the lane must not be used again.
        """
        slot = self._finish()
        return nv12_at(slot.output, slot.addresses, owner=slot)

    def band(self) -> tuple[Bytes, Bytes]:
        """See DeviceLane."""
        pinned, width = self._usable().pinned_out, self._spec.width
        return (
            pinned[: self._in_bytes].reshape(self._rows, width),
            pinned[self._in_bytes :].reshape(SCALE * self._rows, SCALE * width),
        )

    def _copy_in(self, device: AnyDevice, slot: Slot, frame: AnyFrame) -> None:
        if not isinstance(frame, DeviceNv12):
            super()._copy_in(device, slot, frame)
            return
        # FFmpeg's decoders queue their work on the default stream, which ours do not wait for.
        device.record(slot.events["in_end"], device.default_stream())
        device.wait(self._streams.copy_in, slot.events["in_end"])
        device.copy_plane(slot.addresses[Y_INPUT], frame.y, self._streams.copy_in)
        device.copy_plane(slot.addresses[UV_INPUT], frame.uv, self._streams.copy_in)

    def _copy_out(self, device: AnyDevice, slot: Slot) -> None:
        places = -(-self._spec.height // self._rows)
        first = min(self._turn % places * self._rows, self._spec.height - self._rows)
        self._turn += 1
        parts = (
            (slot.pinned_out[: self._in_bytes], Y_INPUT, first * self._spec.width),
            (slot.pinned_out[self._in_bytes :], Y_OUTPUT, first * self._spec.width * SCALE * SCALE),
        )
        for target, name, offset in parts:
            device.read(target, slot.addresses[name] + offset, self._streams.copy_out)


@dataclass(frozen=True, slots=True)
class CudaMemory:
    """``engine.device.DeviceMemory`` of a GPU."""

    thread: GpuThread

    def call(self, work: Callable[[], Result]) -> Result:
        """See DeviceMemory."""
        return self.thread.call(lambda device: work())

    @contextmanager
    def blank(self, height: int, width: int) -> Iterator[DeviceNv12]:
        """See DeviceMemory."""
        layout = Layout.of(output_shapes("nv12", (height // SCALE, width // SCALE)))

        def make(device: AnyDevice) -> tuple[object, int]:
            stream, done = device.stream(), device.event()
            zeros = device.pinned(layout.size_bytes)
            zeros[:] = np.uint8(0)
            memory = device.memory(layout.size_bytes)
            device.copy_in(memory, zeros, stream)
            device.record(done, stream)
            device.synchronize(done)
            return memory, device.address(memory)

        memory, base = self.thread.call(make)
        try:
            yield nv12_at(layout, layout.addresses(base), owner=self)
        finally:
            self.thread.call(lambda device: device.free(memory))


def nv12_at(layout: Layout, addresses: dict[str, int], owner: object) -> DeviceNv12:
    """The frame of x4 size that lies at these addresses."""
    height, width = layout.shapes[Y_OUTPUT]
    return DeviceNv12(
        Plane(addresses[Y_OUTPUT], height, width, width, owner=owner),
        Plane(addresses[UV_OUTPUT], height // 2, width, width, samples=2, owner=owner),
    )
