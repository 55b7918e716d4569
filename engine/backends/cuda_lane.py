"""A lane on a GPU: one slot of pinned and device memory, and the order of its work.

Lanes of a backend share three streams. Events chain copy-in -> compute -> copy-out of one frame;
frames of different lanes overlap because nothing else does. A slot's memory is used again only
after ``finish`` has seen its last event, so no stream ever waits for a slot.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from engine.backends.base import LaneSpec
from engine.backends.cuda_thread import AnyDevice, GpuThread
from engine.backends.tensor_shapes import Shapes, input_shapes, output_shapes
from engine.contract import RGB_INPUT, RGB_OUTPUT, UV_INPUT, UV_OUTPUT, Y_INPUT, Y_OUTPUT
from engine.device import AnyFrame, DeviceNv12
from engine.errors import EngineFault
from engine.frames import Bytes, Frame, Nv12, check_frame

ALIGNMENT = 256
"""Bytes: what TensorRT asks of an address."""


class Compute(Protocol):
    """The network on the GPU."""

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        """Queues one frame: tensor name -> device address, on a CUDA stream handle."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where tensors lie in one buffer, so that a frame is one copy whatever its planes."""

    shapes: Shapes
    offsets: dict[str, int]
    size_bytes: int

    @classmethod
    def of(cls, shapes: Shapes) -> Layout:
        """Tensors one after another, each aligned."""
        offsets, end = {}, 0
        for name, shape in shapes.items():
            offsets[name] = end = -(-end // ALIGNMENT) * ALIGNMENT
            end += prod(shape)
        return cls(shapes, offsets, end)

    def view(self, buffer: Bytes, name: str) -> Bytes:
        """The tensor inside a host buffer, without a copy."""
        shape, start = self.shapes[name], self.offsets[name]
        return buffer[start : start + prod(shape)].reshape(shape)

    def addresses(self, base: int) -> dict[str, int]:
        """Tensor name -> address, for a device buffer at ``base``."""
        return {name: base + offset for name, offset in self.offsets.items()}


@dataclass(frozen=True, slots=True)
class Streams:
    """Shared by all lanes of a backend. Made on the GPU thread."""

    copy_in: Any
    compute: Any
    copy_out: Any

    @classmethod
    def open(cls, device: AnyDevice) -> Streams:
        """Three fresh streams."""
        return cls(device.stream(), device.stream(), device.stream())


EVENTS = ("in_start", "in_end", "compute_start", "compute_end", "out_start", "out_end")


class Slot:
    """Memory and events of one frame in flight. Made and freed on the GPU thread.

    Args:
        device: where.
        spec: what it holds.
        pinned_out_bytes: of page-locked memory for results; None is a whole frame.

    Raises:
        OutOfMemory: it does not fit; what had been allocated is freed.
    """

    def __init__(
        self, device: AnyDevice, spec: LaneSpec, pinned_out_bytes: int | None = None
    ) -> None:
        size = (spec.height, spec.width)
        self.input = Layout.of(input_shapes(spec.format, size))
        self.output = Layout.of(output_shapes(spec.format, size))
        self.events = {name: device.event() for name in EVENTS}
        self.pinned_in = device.pinned(self.input.size_bytes)
        out_bytes = self.output.size_bytes if pinned_out_bytes is None else pinned_out_bytes
        self.pinned_out = device.pinned(out_bytes)
        self.device_in = device.memory(self.input.size_bytes)
        try:
            self.device_out = device.memory(self.output.size_bytes)
        except EngineFault:
            device.free(self.device_in)
            raise
        self.addresses = {
            **self.input.addresses(device.address(self.device_in)),
            **self.output.addresses(device.address(self.device_out)),
        }

    def free(self, device: AnyDevice) -> None:
        """Frees everything here, on the GPU's thread, where PyCUDA's objects must end. Pinned
        output that somebody still looks at is freed by a call after the last view of it."""
        self.events = {}
        self.pinned_in = self.pinned_out = np.empty(0, np.uint8)
        device.free(self.device_in)
        device.free(self.device_out)


class SlotLane:
    """What lanes share whose results go to the host and those whose results stay.

    Args:
        thread: the GPU's thread.
        streams: shared with the other lanes.
        compute: shared with the other lanes; runs on the compute stream only.
        slot: this lane's memory.
    """

    def __init__(self, thread: GpuThread, streams: Streams, compute: Compute, slot: Slot) -> None:
        self._thread, self._streams, self._compute = thread, streams, compute
        self._slot: Slot | None = slot
        self._busy = False
        self._broken = False
        self.stages_ms: dict[str, float] = {}
        """GPU milliseconds of the last finished frame: copy_in, compute, copy_out."""

    @property
    def closed(self) -> bool:
        """Whether its memory was given back."""
        return self._slot is None

    def close(self) -> None:
        """Waits for the frame in flight and frees the slot; harmless when called twice."""
        slot, self._slot = self._slot, None
        if slot is None:
            return
        # After a CUDA error nothing can be freed any more: the context is lost.
        with suppress(EngineFault):
            if self._busy or self._broken:
                self._thread.call(lambda device: self._drain(device, slot))
            self._thread.call(slot.free)

    def _copy_in(self, device: AnyDevice, slot: Slot, frame: AnyFrame) -> None:
        """Queues the way of a frame to the GPU; a frame of the host is in pinned memory."""
        device.copy_in(slot.device_in, slot.pinned_in, self._streams.copy_in)

    def _copy_out(self, device: AnyDevice, slot: Slot) -> None:
        """Queues the way of the result."""
        device.copy_out(slot.pinned_out, slot.device_out, self._streams.copy_out)

    def _start(self, frame: AnyFrame) -> None:
        slot = self._usable()
        if self._busy:
            raise EngineFault("the lane is still busy: finish its frame first")
        if not isinstance(frame, DeviceNv12):
            for name, plane in _planes(frame).items():
                np.copyto(slot.input.view(slot.pinned_in, name), plane)
        self._guarded(lambda device: self._enqueue(device, slot, frame))
        self._busy = True

    def _finish(self) -> Slot:
        slot = self._usable()
        if not self._busy:
            raise EngineFault("the lane was asked for a frame that was never started")
        self._busy = False
        self._guarded(lambda device: self._wait(device, slot))
        return slot

    def _usable(self) -> Slot:
        if self._slot is None or self._broken:
            raise EngineFault("the lane is closed or broken: open another")
        return self._slot

    def _guarded(self, work: Any) -> None:
        try:
            self._thread.call(work)
        except BaseException:
            self._broken = True
            raise

    def _enqueue(self, device: AnyDevice, slot: Slot, frame: AnyFrame) -> None:
        streams, events = self._streams, slot.events
        device.record(events["in_start"], streams.copy_in)
        self._copy_in(device, slot, frame)
        device.record(events["in_end"], streams.copy_in)
        device.wait(streams.compute, events["in_end"])
        device.record(events["compute_start"], streams.compute)
        self._compute.enqueue(slot.addresses, device.stream_handle(streams.compute))
        device.record(events["compute_end"], streams.compute)
        device.wait(streams.copy_out, events["compute_end"])
        device.record(events["out_start"], streams.copy_out)
        self._copy_out(device, slot)
        device.record(events["out_end"], streams.copy_out)

    def _drain(self, device: AnyDevice, slot: Slot) -> None:
        """Waits for all streams: of a frame that failed half-way nobody knows which one is last."""
        for stream in (self._streams.copy_in, self._streams.compute, self._streams.copy_out):
            device.record(slot.events["out_end"], stream)
            device.synchronize(slot.events["out_end"])

    def _wait(self, device: AnyDevice, slot: Slot) -> None:
        events = slot.events
        device.synchronize(events["out_end"])
        self.stages_ms = {
            stage: device.elapsed_ms(events[f"{short}_start"], events[f"{short}_end"])
            for stage, short in (("copy_in", "in"), ("compute", "compute"), ("copy_out", "out"))
        }


class CudaLane(SlotLane):
    """One frame in flight on a GPU, from the host and back.

    Args:
        thread: the GPU's thread.
        streams: shared with the other lanes.
        compute: shared with the other lanes; runs on the compute stream only.
        spec: shape and format of every frame.
    """

    def __init__(
        self, thread: GpuThread, streams: Streams, compute: Compute, spec: LaneSpec
    ) -> None:
        super().__init__(thread, streams, compute, thread.call(lambda device: Slot(device, spec)))
        self._spec = spec

    def start(self, frame: Frame) -> None:
        """Copies ``frame`` to pinned memory and queues its work; returns before it runs.

        Raises:
            ContractError: the frame does not fit the lane.
            EngineFault: the lane is closed, busy or broken, or CUDA failed.
        """
        check_frame(frame, self._spec.format, self._spec.height, self._spec.width)
        self._start(frame)

    def finish(self) -> Frame:
        """Waits for the frame: views of pinned memory, valid until the next ``start``.

        Raises:
            EngineFault: nothing was started, or CUDA failed; the lane must not be used again.
        """
        slot = self._finish()
        if self._spec.format == "nv12":
            y = slot.output.view(slot.pinned_out, Y_OUTPUT)
            return Nv12(y, slot.output.view(slot.pinned_out, UV_OUTPUT))
        return slot.output.view(slot.pinned_out, RGB_OUTPUT)


def _planes(frame: Frame) -> dict[str, Bytes]:
    if isinstance(frame, Nv12):
        return {Y_INPUT: frame.y, UV_INPUT: frame.uv}
    return {RGB_INPUT: frame}
