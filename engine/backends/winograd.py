"""The CPU's fast backend: Winograd convolutions in C, four times fewer multiplications.

One worker thread runs frames in order, so that decoding and encoding overlap with it; the library
spreads each frame over ``threads`` cores. Inputs are read and outputs written in place. The same
frame gives the same bytes whatever the number of threads and however it is cut into strips.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from engine.backends.base import BackendInfo, Lane, LaneSpec
from engine.backends.onnxruntime import available_cores, processor_name
from engine.backends.winograd_layers import layers_of
from engine.backends.winograd_library import LEVELS, Library, Plan, Pool, sources_digest
from engine.closing import Closing
from engine.contract import SCALE
from engine.errors import BackendUnavailable, EngineFault, OutOfMemory
from engine.frames import Bytes, Frame, Nv12, check_frame, empty_frame
from engine.graph import build_graph
from engine.models import Model

TILE = 4
"""Side of a tile in pixels."""

MAX_PIXELS = 4 * 1024 * 1024
"""Larger frames go through in strips. More than elsewhere: what a layer keeps of a frame is a few
rows, so that a lane is hardly more than its output."""


class WinogradLane:
    """One frame in flight, with its own output memory."""

    def __init__(self, pool: Pool, plan: Plan, worker: ThreadPoolExecutor, spec: LaneSpec) -> None:
        self._pool = pool
        self._plan: Plan | None = plan
        self._worker = worker
        self._spec = spec
        self._pending: Future[None] | None = None
        try:
            self._result = empty_frame(SCALE * spec.height, SCALE * spec.width, spec.format)
        except MemoryError as error:
            raise _out_of_memory(spec) from error

    @property
    def closed(self) -> bool:
        """Whether its memory is gone."""
        return self._plan is None

    def start(self, frame: Frame) -> None:
        """Begins work on ``frame``. Raises ContractError when it does not fit the lane."""
        check_frame(frame, self._spec.format, self._spec.height, self._spec.width)
        if self._plan is None or self._pending is not None:
            raise EngineFault("the lane is closed or still busy: finish its frame first")
        self._pending = self._worker.submit(self._run, self._plan, frame)

    def finish(self) -> Frame:
        """Waits for the frame; it belongs to the lane until the next ``start``.

        Raises:
            OutOfMemory: the machine had no memory for it.
            EngineFault: nothing was started.
        """
        if self._pending is None:
            raise EngineFault("the lane was asked for a frame that was never started")
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except MemoryError as error:
            raise _out_of_memory(self._spec) from error
        return self._result

    def close(self) -> None:
        """Waits for the frame in flight, then frees the lane's memory."""
        if self._pending is not None:
            if not self._pending.cancel():
                self._pending.exception()
            self._pending = None
        self._plan = None
        self._result = np.empty((0, 0, 3), np.uint8)

    def _run(self, plan: Plan, frame: Frame) -> None:
        # Keeps copies of strided input alive until the run is over.
        inputs = [np.ascontiguousarray(plane) for plane in _planes(frame)]
        self._pool.run(plan, inputs, _planes(self._result))


class WinogradBackend(Closing):
    """A model on the CPU.

    Args:
        model: its weights; they are transformed when lanes are opened.
        threads: cores that one frame uses; None is all of this process's.
        reason: why this backend was chosen, for ``info.detail["reason"]``.
        level: instruction set, a key of ``LEVELS`` that the processor has; None is the best.

    Raises:
        BackendUnavailable: the C library is missing or this processor cannot run it.
    """

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        reason: str = "asked for by name",
        level: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise BackendUnavailable(f"threads must be at least 1, got {threads}")
        library = Library()
        level = library.best_level if level is None else level
        if level not in LEVELS or level > library.best_level:
            raise BackendUnavailable(
                f"winograd: this processor has no level {level}: its best is {library.best_level}"
            )
        self._model = model
        self._reason = reason
        self._pool = Pool(library, threads or available_cores(), level)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="winograd")
        self._lanes: list[WinogradLane] = []
        self._onnx_sha256 = hashlib.sha256(build_graph(model, "rgb24")).hexdigest()

    @property
    def info(self) -> BackendInfo:
        """The library and its instruction set, the processor and how many threads, the model."""
        return BackendInfo(
            name="winograd",
            version=sources_digest()[:12],
            device=f"{processor_name()} ({self._pool.threads} threads)",
            model=self._model.name,
            onnx_sha256=self._onnx_sha256,
            # Rounding spreads by a whole tile per layer, further than the convolutions reach.
            halo=TILE * self._model.config.halo,
            max_pixels=MAX_PIXELS,
            detail={
                "reason": self._reason,
                "threads": str(self._pool.threads),
                "instructions": LEVELS[self._pool.level],
                "trained": str(self._model.trained).lower(),
                "weights_sha256": self._model.sha256,
            },
        )

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Lanes for frames of one shape; they share their working memory, as frames take turns.

        Raises:
            OutOfMemory: it does not fit.
            ContractError: an unknown colour matrix.
        """
        plan = Plan(self._pool, spec, *layers_of(self._model, spec))
        lanes = [WinogradLane(self._pool, plan, self._worker, spec) for _ in range(count)]
        self._lanes = [lane for lane in self._lanes if not lane.closed] + lanes
        return list(lanes)

    def close(self) -> None:
        """Closes every lane and ends the threads."""
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        self._worker.shutdown()
        self._pool.close()


def _planes(frame: Frame) -> list[Bytes]:
    return [frame.y, frame.uv] if isinstance(frame, Nv12) else [frame]


def _out_of_memory(spec: LaneSpec) -> OutOfMemory:
    return OutOfMemory(f"no memory for a frame of {spec.width}x{spec.height}: use smaller strips")
