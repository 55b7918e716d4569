"""The PyCUDA module without a GPU: what is missing is said in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.backends.cuda_driver import open_device
from engine.dlpack import Plane
from engine.errors import BackendUnavailable, EngineFault, OutOfMemory


class CudaError(Exception):
    pass


class CudaMemoryError(CudaError):
    pass


class FakeContext:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def push(self) -> None:
        self.calls.append("push")

    def detach(self) -> None:
        self.calls.append("detach")


def fake_pycuda(count: int = 1, fails: bool = False) -> Any:
    """Just enough of ``pycuda.driver``."""
    context = FakeContext()

    class Device:
        def __init__(self, ordinal: int) -> None:
            self.ordinal = ordinal

        @staticmethod
        def count() -> int:
            return count

        def retain_primary_context(self) -> FakeContext:
            return context

        def compute_capability(self) -> tuple[int, int]:
            return 7, 5

        def get_attribute(self, attribute: str) -> int:
            return {"sm": 40, "engines": 3}[attribute]

        def name(self) -> str:
            return "Tesla T4"

        def total_memory(self) -> int:
            return 16 << 30

    def init() -> None:
        if fails:
            raise CudaError("cuInit failed: no CUDA-capable device is detected")

    def refuse(*arguments: object) -> None:
        raise CudaMemoryError("out of memory")

    def explode(*arguments: object) -> None:
        raise CudaError("an illegal memory access was encountered")

    return SimpleNamespace(
        Error=CudaError,
        MemoryError=CudaMemoryError,
        Device=Device,
        Context=SimpleNamespace(pop=lambda: context.calls.append("pop")),
        device_attribute=SimpleNamespace(MULTIPROCESSOR_COUNT="sm", ASYNC_ENGINE_COUNT="engines"),
        get_driver_version=lambda: 13050,
        init=init,
        mem_alloc=refuse,
        memcpy_htod_async=explode,
        context=context,
    )


def missing(name: str) -> Any:
    raise ModuleNotFoundError(name)


def no_driver(name: str) -> Any:
    raise ImportError("libcuda.so.1: cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (missing, "PyCUDA is not installed"),
        (no_driver, "no NVIDIA driver"),
        (lambda name: fake_pycuda(fails=True), "no CUDA-capable device"),
        (lambda name: fake_pycuda(count=0), "no GPU number 0"),
    ],
)
def test_what_is_missing_is_one_sentence(load: Any, says: str) -> None:
    with pytest.raises(BackendUnavailable, match=says) as caught:
        open_device(load=load)
    assert "\n" not in str(caught.value)


def test_facts_come_from_the_driver_and_the_context_is_taken_back() -> None:
    cuda = fake_pycuda()
    device = open_device(load=lambda name: cuda)
    assert device.facts.compute_capability == "7.5"
    assert device.facts.driver_version == "13.5"
    assert device.facts.async_engines == 3
    assert device.facts.identity == "Tesla T4 (7.5), driver CUDA 13.5"
    device.close()
    assert cuda.context.calls == ["push", "pop", "detach"]


def test_a_lost_context_is_detached_though_it_cannot_be_popped() -> None:
    cuda = fake_pycuda()

    def lost() -> None:
        raise CudaError("an illegal memory access was encountered")

    cuda.Context = SimpleNamespace(pop=lost)
    open_device(load=lambda name: cuda).close()
    assert cuda.context.calls == ["push", "detach"]


def test_lack_of_memory_is_told_apart_from_errors_that_stick() -> None:
    device = open_device(load=lambda name: fake_pycuda())
    with pytest.raises(OutOfMemory, match="no memory left for a buffer of 64 bytes"):
        device.memory(64)
    with pytest.raises(EngineFault, match="copying a frame in") as caught:
        device.copy_in(None, np.zeros(1, np.uint8), None)
    assert not isinstance(caught.value, OutOfMemory)


def test_pinned_memory_whose_last_view_ends_elsewhere_is_freed_by_the_next_call() -> None:
    cuda, freed = fake_pycuda(), list[str]()

    class Memory(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            freed.append("freed")

    cuda.pagelocked_empty = lambda size, dtype: np.full(size, 7, dtype).view(Memory)
    device = open_device(load=lambda name: cuda)
    view = device.pinned(6)[2:].reshape(2, 2)
    assert type(view) is np.ndarray
    assert view.flags.writeable
    assert view.tolist() == [[7, 7], [7, 7]]
    del view
    assert freed == []
    device.close()
    assert freed == ["freed"]


def test_a_plane_is_copied_row_by_row_and_the_default_stream_has_no_object() -> None:
    cuda = fake_pycuda()
    copies: list[dict[str, object]] = []

    class Memcpy2D:
        def set_src_device(self, address: int) -> None:
            self.source = address

        def set_dst_device(self, address: int) -> None:
            self.target = address

        def __call__(self, stream: object) -> None:
            copies.append(vars(self) | {"stream": stream})

    cuda.Memcpy2D = Memcpy2D
    device = open_device(load=lambda name: cuda)
    device.copy_plane(4096, Plane(512, rows=3, row_bytes=10, pitch=16), "stream")
    assert copies == [
        {
            "source": 512,
            "target": 4096,
            "src_pitch": 16,
            "dst_pitch": 10,
            "width_in_bytes": 10,
            "height": 3,
            "stream": "stream",
        }
    ]
    assert device.default_stream() is None


def test_importing_the_engine_imports_neither_cuda_nor_tensorrt() -> None:
    code = (
        "import sys, engine.selection, engine.backends.cuda_driver, engine.backends.cuda_lane, "
        "engine.backends.tensorrt_shim; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('pycuda', 'tensorrt', 'tensorrt_rtx', 'torch')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[]\n"
