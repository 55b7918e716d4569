"""The only module that imports PyCUDA. Import it on a machine with a driver, or not at all.

Importing ``pycuda.driver`` needs ``libcuda.so.1``, so :func:`open_device` imports it late and
turns what can go wrong into one sentence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import numpy as np

from engine.backends.cuda_api import DeviceFacts
from engine.dlpack import Plane
from engine.errors import BackendUnavailable, EngineFault, OutOfMemory
from engine.frames import Bytes

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the default stream's work is nobody's business here."""


def open_device(ordinal: int = 0, load: Callable[[str], Any] = import_module) -> PyCudaDevice:
    """The GPU numbered ``ordinal``, its primary context retained and current on this thread.

    Args:
        ordinal: as ``CUDA_VISIBLE_DEVICES`` counts.
        load: imports a module by name.

    Raises:
        BackendUnavailable: no PyCUDA, no driver, a driver that is too old, or no such GPU.
    """
    try:
        cuda = load("pycuda.driver")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "PyCUDA is not installed: pip install '.[cuda]' on a machine with CUDA, or use "
            "--backend onnxruntime"
        ) from error
    except ImportError as error:
        raise BackendUnavailable(
            f"PyCUDA finds no NVIDIA driver ({error}): install one (libcuda.so.1), or use "
            "--backend onnxruntime"
        ) from error
    try:
        cuda.init()
        count = cuda.Device.count()
        if not 0 <= ordinal < count:
            raise BackendUnavailable(
                f"there is no GPU number {ordinal} ({count} found): check CUDA_VISIBLE_DEVICES"
            )
        device = cuda.Device(ordinal)
        # The primary context, so that TensorRT, PyTorch and FFmpeg share our pointers.
        context = device.retain_primary_context()
        context.push()
    except cuda.Error as error:
        raise BackendUnavailable(
            f"the NVIDIA driver refuses ({error}): update it or free the GPU, or use "
            "--backend onnxruntime"
        ) from error
    return PyCudaDevice(cuda, device, context)


class _Pinned:
    """Page-locked memory under all views of it. The last one may end on any thread, where PyCUDA
    would lose the memory, so it is laid down for the GPU's thread to free."""

    def __init__(self, memory: Any, ended: deque[Any]) -> None:
        self._memory, self._ended = memory, ended
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._ended.append(self._memory)


class PyCudaDevice:
    """``engine.backends.cuda_api.CudaDevice`` through PyCUDA."""

    def __init__(self, cuda: Any, device: Any, context: Any) -> None:
        self._cuda = cuda
        self._context = context
        self._ended: deque[Any] = deque()
        attribute, name = cuda.device_attribute, device.get_attribute
        major, minor = device.compute_capability()
        version = cuda.get_driver_version()
        self._facts = DeviceFacts(
            name=str(device.name()),
            compute_capability=f"{major}.{minor}",
            multiprocessors=int(name(attribute.MULTIPROCESSOR_COUNT)),
            memory_bytes=int(device.total_memory()),
            async_engines=int(name(attribute.ASYNC_ENGINE_COUNT)),
            driver_version=f"{version // 1000}.{version % 1000 // 10}",
        )

    @property
    def facts(self) -> DeviceFacts:
        """What the driver said when the device was opened."""
        return self._facts

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise OutOfMemory(f"the GPU has no memory left for {doing} ({error})") from error
        except self._cuda.Error as error:
            raise EngineFault(
                f"CUDA failed while {doing} ({error}): restart the process, its context is lost"
            ) from error

    def stream(self) -> Any:
        """See CudaDevice."""
        with self._translated("making a stream"):
            return self._cuda.Stream(NON_BLOCKING)

    def default_stream(self) -> Any:
        """See CudaDevice. PyCUDA has no object for it: no stream is that stream."""
        return None

    def stream_handle(self, stream: Any) -> int:
        """See CudaDevice."""
        return int(stream.handle)

    def event(self) -> Any:
        """See CudaDevice."""
        with self._translated("making an event"):
            return self._cuda.Event(self._cuda.event_flags.BLOCKING_SYNC)

    def pinned(self, size_bytes: int) -> Bytes:
        """See CudaDevice."""
        self._ended.clear()
        with self._translated(f"{size_bytes} bytes of pinned memory"):
            memory = self._cuda.pagelocked_empty(size_bytes, np.uint8)
        return np.asarray(_Pinned(memory, self._ended))

    def memory(self, size_bytes: int) -> Any:
        """See CudaDevice."""
        with self._translated(f"a buffer of {size_bytes} bytes"):
            return self._cuda.mem_alloc(size_bytes)

    def address(self, memory: Any) -> int:
        """See CudaDevice."""
        return int(memory)

    def free(self, memory: Any) -> None:
        """See CudaDevice."""
        self._ended.clear()
        with self._translated("freeing a buffer"):
            memory.free()

    def copy_in(self, target: Any, source: Bytes, stream: Any) -> None:
        """See CudaDevice."""
        with self._translated("copying a frame in"):
            self._cuda.memcpy_htod_async(target, source, stream)

    def copy_out(self, target: Bytes, source: Any, stream: Any) -> None:
        """See CudaDevice."""
        with self._translated("copying a frame out"):
            self._cuda.memcpy_dtoh_async(target, source, stream)

    def read(self, target: Bytes, address: int, stream: Any) -> None:
        """See CudaDevice."""
        with self._translated("reading a band"):
            self._cuda.memcpy_dtoh_async(target, address, stream)

    def copy_plane(self, target: int, source: Plane, stream: Any) -> None:
        """See CudaDevice."""
        with self._translated("copying a plane"):
            copy = self._cuda.Memcpy2D()
            copy.set_src_device(source.address)
            copy.set_dst_device(target)
            copy.src_pitch, copy.dst_pitch = source.pitch, source.row_bytes
            copy.width_in_bytes, copy.height = source.row_bytes, source.rows
            copy(stream)

    def record(self, event: Any, stream: Any) -> None:
        """See CudaDevice."""
        with self._translated("recording an event"):
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        """See CudaDevice."""
        with self._translated("chaining streams"):
            stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        """See CudaDevice."""
        with self._translated("waiting for a frame"):
            event.synchronize()

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """See CudaDevice."""
        with self._translated("reading a clock"):
            return float(first.time_till(second))

    def free_bytes(self) -> int:
        """See CudaDevice."""
        with self._translated("asking for free memory"):
            return int(self._cuda.mem_get_info()[0])

    def close(self) -> None:
        """See CudaDevice. A thread that ends with a context on its stack aborts the process."""
        self._ended.clear()
        with suppress(self._cuda.Error):  # a lost context; detaching takes it off the stack too
            self._cuda.Context.pop()
        self._context.detach()
