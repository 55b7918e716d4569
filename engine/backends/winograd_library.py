"""The C library behind ctypes: finding it, its structures, and who frees what.

ctypes releases Python's lock during a call, so a frame runs beside decoding and encoding.
"""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int, c_int32, c_void_p
from pathlib import Path

from engine.backends.base import LaneSpec
from engine.backends.winograd_layers import Layer
from engine.errors import BackendUnavailable, OutOfMemory
from engine.frames import Bytes

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
LIBRARY = KERNELS / "winograd.so"
LEVELS = {1: "baseline", 2: "x86-64-v2", 3: "x86-64-v3", 4: "x86-64-v4"}
"""What the library calls instruction sets."""

TILES_PER_THREAD = 64
"""Tiles that a thread has between two meetings of the threads: fewer meet too often, more leave
the cache (docs/experiments.md, Winograd)."""


class _Layer(ctypes.Structure):
    _fields_ = (
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("before", c_int32),
        ("after", c_int32),
        ("slope", c_float),
        ("reserved", c_int32),
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        ("height", c_int32),
        ("width", c_int32),
        ("nv12", c_int32),
        ("band", c_int32),
        ("offset", c_float * 3),
    )


def sources_digest(folder: Path = KERNELS) -> str:
    """What names the sources of the library: the same here and in ``setup.py``."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Library:
    """The loaded library.

    Raises:
        BackendUnavailable: it was not compiled here, from other sources, or for other processors.
    """

    def __init__(self) -> None:
        path = LIBRARY
        try:
            self.c = ctypes.CDLL(str(path))
        except OSError as error:
            raise BackendUnavailable(
                "winograd: its C library was not compiled when sr-server was installed; "
                "install a C compiler, then sr-server again"
            ) from error
        self.c.sr_sources.restype = ctypes.c_char_p
        if self.c.sr_sources().decode() != sources_digest(path.parent):
            raise BackendUnavailable(
                "winograd: its C library was compiled from other sources: install sr-server again"
            )
        self.best_level = int(self.c.sr_level())
        if self.best_level not in LEVELS:
            raise BackendUnavailable(
                "winograd: this processor is older than x86-64-v2: use onnxruntime"
            )
        self.c.sr_pool_open.argtypes = [c_int]
        self.c.sr_pool_open.restype = c_void_p
        self.c.sr_pool_close.argtypes = [c_void_p]
        self.c.sr_pool_close.restype = None
        self.c.sr_plan_open.argtypes = [POINTER(_Shape), POINTER(_Layer), c_int, c_int]
        self.c.sr_plan_open.restype = c_void_p
        self.c.sr_plan_close.argtypes = [c_void_p]
        self.c.sr_plan_close.restype = None
        pair = POINTER(c_void_p)
        self.c.sr_run.argtypes = [c_void_p, c_void_p, c_int, pair, pair]
        self.c.sr_run.restype = None


class Pool:
    """Threads that work on one frame together; the thread that calls ``run`` is one of them.

    Raises:
        BackendUnavailable: the system gives no more threads.
    """

    def __init__(self, library: Library, threads: int, level: int) -> None:
        self.library, self.threads, self.level = library, threads, level
        self._pointer = library.c.sr_pool_open(threads)
        if not self._pointer:
            raise BackendUnavailable(f"winograd: the system gives no {threads} threads: ask fewer")
        self.close = weakref.finalize(self, library.c.sr_pool_close, self._pointer)

    def run(self, plan: Plan, inputs: Sequence[Bytes], outputs: Sequence[Bytes]) -> None:
        """One frame, in place; all arrays are contiguous and of the plan's shape."""
        self.library.c.sr_run(
            self._pointer, plan.pointer, self.level, _addresses(inputs), _addresses(outputs)
        )


class Plan:
    """The working memory for frames of one shape; for one frame at a time.

    Raises:
        OutOfMemory: there is not enough.
    """

    def __init__(
        self, pool: Pool, spec: LaneSpec, layers: list[Layer], offset: tuple[float, float, float]
    ) -> None:
        columns, rows = -(-spec.width // 4), -(-spec.height // 4)
        band = min(-(-TILES_PER_THREAD * pool.threads // columns), rows)
        shape = _Shape(spec.height, spec.width, spec.format == "nv12", band, offset)
        entries = (_Layer * len(layers))(*(_entry(layer) for layer in layers))
        self.pointer = pool.library.c.sr_plan_open(shape, entries, len(layers), pool.threads)
        if not self.pointer:
            raise OutOfMemory(
                f"no memory for a frame of {spec.width}x{spec.height}: use smaller strips"
            )
        self._layers = layers  # the library reads their weights where they are
        self._finalizer = weakref.finalize(self, pool.library.c.sr_plan_close, self.pointer)


def _entry(layer: Layer) -> _Layer:
    return _Layer(
        layer.weights.ctypes.data,
        layer.bias.ctypes.data,
        layer.weights.shape[1],
        len(layer.bias),
        layer.before,
        layer.after,
        layer.slope,
        0,
    )


def _addresses(arrays: Sequence[Bytes]) -> ctypes.Array[c_void_p]:
    found: list[int | None] = [array.ctypes.data for array in arrays]
    return (c_void_p * 2)(*[*found, None][:2])
