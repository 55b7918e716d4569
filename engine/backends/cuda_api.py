"""The few CUDA calls that a lane needs, so that everything above them runs against a fake.

``engine.backends.cuda_driver`` implements it with PyCUDA; the tests implement it with arrays.
Every call happens on one thread (``engine.backends.cuda_thread``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from engine.dlpack import Plane
from engine.frames import Bytes

StreamT = TypeVar("StreamT")
EventT = TypeVar("EventT")
MemoryT = TypeVar("MemoryT")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the driver says about a GPU."""

    name: str
    """``Tesla T4``."""
    compute_capability: str
    """``7.5``."""
    multiprocessors: int
    memory_bytes: int
    async_engines: int
    """Copies that can run beside kernels: 1 is one direction at a time, 2 both."""
    driver_version: str
    """CUDA version that the driver speaks, ``13.0``."""

    @property
    def identity(self) -> str:
        """GPU and driver as the gate's verdict names them."""
        return f"{self.name} ({self.compute_capability}), driver CUDA {self.driver_version}"


class CudaDevice(Protocol[StreamT, EventT, MemoryT]):
    """One GPU with its primary context current on the calling thread.

    Every method raises OutOfMemory where memory is short and EngineFault for any other CUDA
    error. After an EngineFault the context is lost: CUDA errors are sticky.
    """

    @property
    def facts(self) -> DeviceFacts:
        """What the driver said when the device was opened."""

    def stream(self) -> StreamT:
        """A stream that does not wait for the default one."""

    def default_stream(self) -> StreamT:
        """The legacy default stream, where libraries that know no other queue their work."""

    def stream_handle(self, stream: StreamT) -> int:
        """The ``CUstream`` as a number, for TensorRT and PyTorch."""

    def event(self) -> EventT:
        """An event that keeps time and lets a waiting thread sleep."""

    def pinned(self, size_bytes: int) -> Bytes:
        """A 1-D page-locked host array. Its last view may end on any thread: a later call of
        ``pinned``, ``free`` or ``close`` frees it."""

    def memory(self, size_bytes: int) -> MemoryT:
        """Device memory, aligned to 256 bytes."""

    def address(self, memory: MemoryT) -> int:
        """Its device address."""

    def free(self, memory: MemoryT) -> None:
        """Frees device memory."""

    def copy_in(self, target: MemoryT, source: Bytes, stream: StreamT) -> None:
        """Queues pinned host -> device."""

    def copy_out(self, target: Bytes, source: MemoryT, stream: StreamT) -> None:
        """Queues device -> pinned host."""

    def read(self, target: Bytes, address: int, stream: StreamT) -> None:
        """Queues the bytes at a device address -> pinned host."""

    def copy_plane(self, target: int, source: Plane, stream: StreamT) -> None:
        """Queues a plane on this device -> device address, its rows one behind the other."""

    def record(self, event: EventT, stream: StreamT) -> None:
        """Queues ``event`` behind the work already in ``stream``."""

    def wait(self, stream: StreamT, event: EventT) -> None:
        """Makes further work in ``stream`` wait for the last ``record`` of ``event``."""

    def synchronize(self, event: EventT) -> None:
        """Blocks this thread until ``event`` has happened; releases the GIL."""

    def elapsed_ms(self, first: EventT, second: EventT) -> float:
        """Milliseconds of GPU time between two events that have happened."""

    def free_bytes(self) -> int:
        """Device memory that is free at this moment."""

    def close(self) -> None:
        """Takes the context off this thread."""
