"""ONNX Runtime on the CPU: the embedded default, and the judge of every other backend.

One worker thread runs frames in order, so that decoding and encoding overlap with it while the
runtime itself uses ``threads`` cores. Inputs are read and outputs written in place: a frame is
copied only when its memory is not contiguous.
"""

from __future__ import annotations

import hashlib
import os
import platform
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from engine.backends.base import BackendInfo, Lane, LaneSpec
from engine.closing import Closing
from engine.contract import (
    RGB_INPUT,
    RGB_OUTPUT,
    SCALE,
    UV_INPUT,
    UV_OUTPUT,
    Y_INPUT,
    Y_OUTPUT,
    Precision,
)
from engine.errors import BackendUnavailable, ContractError, EngineFault, OutOfMemory
from engine.frames import Bytes, Frame, Nv12, check_frame
from engine.graph import build_graph
from engine.models import Model

RUN_FAILURES = (
    RuntimeError,  # what a run with bound memory raises, whatever went wrong
    failures.Fail,
    failures.RuntimeException,
    failures.InvalidArgument,
    failures.EPFail,
    failures.EngineError,
    MemoryError,
)
LOAD_FAILURES = (
    *RUN_FAILURES,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NotImplemented,
)

GraphKey = tuple[str, str, bool]
"""Format, matrix and range: what decides which graph a lane needs."""


def open_session(onnx_bytes: bytes, threads: int) -> ort.InferenceSession:
    """A CPU session on ``threads`` cores. Raises ContractError when the graph does not load."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads steal the cores that decoding and encoding need between two frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    except LOAD_FAILURES as error:
        raise ContractError(f"ONNX Runtime cannot load the graph: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of a foreign exception on one line, cut to a readable length."""
    return " ".join(str(error).split())[:300]


def translate(error: BaseException, height: int, width: int) -> EngineFault:
    """The engine's own exception for a failed run."""
    message = one_line(error)
    if isinstance(error, MemoryError) or "alloc" in message.lower():
        return OutOfMemory(f"no memory for a frame of {width}x{height}: use smaller strips")
    return EngineFault(f"ONNX Runtime failed on a frame of {width}x{height}: {message}")


class OnnxRuntimeLane:
    """One frame in flight, with its own output memory."""

    def __init__(
        self, session: ort.InferenceSession, worker: ThreadPoolExecutor, spec: LaneSpec
    ) -> None:
        self._session = session
        self._worker = worker
        self._spec = spec
        self._binding: Any = session.io_binding()
        self._pending: Future[None] | None = None
        self._closed = False
        height, width = spec.height, spec.width
        try:
            if spec.format == "nv12":
                y = np.empty((SCALE * height, SCALE * width), np.uint8)
                uv = np.empty((SCALE * height // 2, SCALE * width // 2, 2), np.uint8)
                self._result: Frame = Nv12(y, uv)
                self._bind_output(Y_OUTPUT, y)
                self._bind_output(UV_OUTPUT, uv)
            else:
                self._result = np.empty((SCALE * height, SCALE * width, 3), np.uint8)
                self._bind_output(RGB_OUTPUT, self._result)
        except MemoryError as error:
            raise translate(error, height, width) from error

    def start(self, frame: Frame) -> None:
        """Begins work on ``frame``. Raises ContractError when it does not fit the lane."""
        check_frame(frame, self._spec.format, self._spec.height, self._spec.width)
        if self._closed or self._pending is not None:
            raise EngineFault("the lane is closed or still busy: finish its frame first")
        self._pending = self._worker.submit(self._run, frame)

    def finish(self) -> Frame:
        """Waits for the frame; it belongs to the lane until the next ``start``.

        Raises:
            OutOfMemory: the machine had no memory for it.
            EngineFault: the runtime failed, or nothing was started.
        """
        if self._pending is None:
            raise EngineFault("the lane was asked for a frame that was never started")
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except RUN_FAILURES as error:
            raise translate(error, self._spec.height, self._spec.width) from error
        return self._result

    def close(self) -> None:
        """Waits for the frame in flight, then frees the lane's memory."""
        self._closed = True
        if self._pending is not None:
            if not self._pending.cancel():
                self._pending.exception()
            self._pending = None
        self._binding = None
        self._result = np.empty((0, 0, 3), np.uint8)

    def _run(self, frame: Frame) -> None:
        if isinstance(frame, Nv12):
            inputs = {Y_INPUT: frame.y, UV_INPUT: frame.uv}
        else:
            inputs = {RGB_INPUT: frame}
        # Keeps copies of strided input alive until the run is over.
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in contiguous.items():
            self._binding.bind_input(name, "cpu", 0, np.uint8, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(self._binding)

    def _bind_output(self, name: str, array: Bytes) -> None:
        self._binding.bind_output(name, "cpu", 0, np.uint8, array.shape, array.ctypes.data)


class OnnxRuntimeBackend(Closing):
    """A model on the CPU.

    Args:
        model: its weights; graphs are made from them as lanes need them.
        threads: cores that one frame uses; None is all of this process's.
        precision: of the graph. FP16 is slow on a CPU: it exists to check the GPU's graph.
        reason: why this backend was chosen, for ``info.detail["reason"]``.
    """

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        precision: Precision = "fp32",
        reason: str = "asked for by name",
    ) -> None:
        if threads is not None and threads < 1:
            raise BackendUnavailable(f"threads must be at least 1, got {threads}")
        self._model = model
        self._threads = threads or available_cores()
        self._precision = precision
        self._reason = reason
        self._sessions: dict[GraphKey, ort.InferenceSession] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")
        self._lanes: list[OnnxRuntimeLane] = []
        onnx_bytes = build_graph(model, "rgb24", precision)
        self._onnx_sha256 = hashlib.sha256(onnx_bytes).hexdigest()
        self._sessions["rgb24", "", False] = open_session(onnx_bytes, self._threads)

    @property
    def info(self) -> BackendInfo:
        """The runtime and its version, the processor and how many threads, the model."""
        return BackendInfo(
            name="onnxruntime",
            version=ort.__version__,
            device=f"{processor_name()} ({self._threads} threads)",
            precision=self._precision,
            model=self._model.name,
            onnx_sha256=self._onnx_sha256,
            halo=self._model.config.halo,
            detail={
                "reason": self._reason,
                "threads": str(self._threads),
                "trained": str(self._model.trained).lower(),
                "weights_sha256": self._model.sha256,
            },
        )

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Lanes for frames of one shape; each holds only its output.

        Raises:
            OutOfMemory: the outputs do not fit.
            ContractError: an unknown colour matrix.
        """
        session = self._session(spec)
        lanes = [OnnxRuntimeLane(session, self._worker, spec) for _ in range(count)]
        self._lanes = [lane for lane in self._lanes if not lane._closed] + lanes
        return list(lanes)

    def _session(self, spec: LaneSpec) -> ort.InferenceSession:
        nv12 = spec.format == "nv12"
        key: GraphKey = ("nv12", spec.matrix, spec.full_range) if nv12 else ("rgb24", "", False)
        if key not in self._sessions:
            graph = build_graph(
                self._model, spec.format, self._precision, spec.matrix, spec.full_range
            )
            self._sessions[key] = open_session(graph, self._threads)
        return self._sessions[key]

    def close(self) -> None:
        """Closes every lane, the worker thread and the sessions."""
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        self._worker.shutdown()
        self._sessions = {}


def available_cores() -> int:
    """Cores that this process may use, which in a container is fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """What a person calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine() or "CPU"
