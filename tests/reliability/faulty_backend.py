"""A backend that goes wrong at frame k, in every way that a device has been seen to."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from engine.backends.base import BackendInfo, Lane, LaneSpec
from engine.backends.nearest import NearestBackend, NearestLane
from engine.errors import EngineFault, OutOfMemory
from engine.frames import Bytes, Frame, Nv12

Fault = Literal[
    "raise", "memory", "zeros", "nan", "size", "stale", "shuffle", "hang", "segfault", "exit"
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
IN_PROCESS: tuple[Fault, ...] = ("raise", "memory", "zeros", "nan", "size", "stale", "shuffle")
"""Faults that a process survives."""
_TILE = 32


@dataclass
class FaultyBackend(NearestBackend):
    """Repetition that fails once, at the frame with this number (from 0, over all lanes).

    With ``marker`` the fault happens only in the first process that gets there.
    """

    fault: Fault
    at_frame: int
    marker: Path | None = None
    frames: int = 0
    last: Frame | None = field(default=None, repr=False)

    @property
    def info(self) -> BackendInfo:
        return super().info

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        return [_FaultyLane(spec, self) for _ in range(count)]

    def is_due(self) -> bool:
        """Whether this is the frame; counts it."""
        due = self.frames == self.at_frame
        self.frames += 1
        if not due or self.marker is None:
            return due
        try:  # in one step: two workers that start together must not both be the first
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class _FaultyLane(NearestLane):
    def __init__(self, spec: LaneSpec, backend: FaultyBackend) -> None:
        super().__init__(spec)
        self._backend = backend

    def finish(self) -> Frame:
        backend, result = self._backend, super().finish()
        if backend.is_due():
            return _broken(backend, result)
        backend.last = result
        return result


def _broken(backend: FaultyBackend, result: Frame) -> Frame:
    match backend.fault:
        case "raise":
            raise EngineFault("an illegal memory access was encountered (700)")
        case "memory":
            raise OutOfMemory("CUDA out of memory")
        case "zeros":
            return _each(result, np.zeros_like)
        case "nan":
            return _each(result, _nan_in_half)
        case "size":
            if isinstance(result, Nv12):
                return Nv12(_without_end(result.y, 4), _without_end(result.uv, 2))
            return _without_end(result, 4)
        case "stale":
            assert backend.last is not None
            return backend.last
        case "shuffle":
            return _each(result, _shuffled)
        case "hang":
            threading.Event().wait()
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(1)
    raise AssertionError(backend.fault)


def _each(frame: Frame, change) -> Frame:
    if isinstance(frame, Nv12):
        return Nv12(change(frame.y), change(frame.uv))
    return change(frame)


def _without_end(plane: Bytes, rows: int) -> Bytes:
    return np.ascontiguousarray(plane[:-rows])


def _nan_in_half(plane: Bytes) -> Bytes:
    """What a cast to uint8 makes of NaN: zeros, here in the lower half."""
    changed = plane.copy()
    changed[len(changed) // 2 :] = 0
    return changed


def _shuffled(plane: Bytes) -> Bytes:
    """The tiles of a row of tiles, the other way round."""
    changed = plane.copy()
    tiles = plane.shape[1] // _TILE
    for tile in range(tiles):
        there = slice(tile * _TILE, (tile + 1) * _TILE)
        back = slice((tiles - 1 - tile) * _TILE, (tiles - tile) * _TILE)
        changed[:, there] = plane[:, back]
    return changed
