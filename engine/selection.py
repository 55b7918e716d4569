"""Which backend and which model run: by name, or ``auto``, which says what it chose and why.

An explicit choice never falls back. GPU modules are imported only when a GPU backend is tried, so
that a machine without CUDA or TensorRT imports everything here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never, cast, get_args

from engine.backends.base import Backend, BackendInfo
from engine.backends.nearest import NearestBackend
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.backends.winograd import WinogradBackend
from engine.backends.winograd_library import Library
from engine.errors import BackendUnavailable
from engine.models import Model, load_model

BackendName = Literal["auto", "winograd", "onnxruntime", "tensorrt", "tensorrt_rtx", "nearest"]

CPU_MODEL = "fast"
"""What ``auto`` means on a CPU: the only width that is fast enough there."""

OnProgress = Callable[[float, str], bool]
"""Told (fraction in [0, 1], phase) while a plan is built; returning False cancels."""


@dataclass(frozen=True, slots=True)
class _Request:
    model: str
    threads: int | None
    cache_dir: Path | None
    on_progress: OnProgress
    notify: Callable[[str], None]
    allow_untrained: bool


def open_backend(
    backend: str = "auto",
    model: str = "auto",
    *,
    threads: int | None = None,
    cache_dir: Path | None = None,
    on_progress: OnProgress = lambda fraction, phase: True,
    notify: Callable[[str], None] = lambda message: None,
    allow_untrained: bool = False,
) -> Backend:
    """Opens a runtime with a model; ``.info.detail["reason"]`` says why this one.

    Args:
        backend: a :data:`BackendName`.
        model: a name of ``engine.models.NAMES``, the path of a weights file, or ``auto``.
        threads: cores that the CPU uses for one frame; None is all of them.
        cache_dir: where plans are kept; None is the user's cache directory.
        on_progress: told how far a plan is built.
        notify: told what a person should know, such as a cache that cannot be written to.
        allow_untrained: also run a width that nobody has trained.

    Raises:
        BackendUnavailable: unknown, or it cannot run here.
        ModelError: no such model, or it is untrained.
        PlanError: the plan cache cannot be used.
    """
    request = _Request(model, threads, cache_dir, on_progress, notify, allow_untrained)
    name = check_backend_name(backend)
    match name:
        case "auto":
            return _open_best(request)
        case "nearest":
            return NearestBackend()
        case "winograd":
            return _open_winograd(request, "asked for by name")
        case "onnxruntime":
            return _open_onnxruntime(request, "asked for by name")
        case "tensorrt" | "tensorrt_rtx":
            return _open_gpu(name, request, "asked for by name")
        case _:
            assert_never(name)


def check_backend_name(name: str) -> BackendName:
    """Raises BackendUnavailable for a name that is not a :data:`BackendName`."""
    if name not in get_args(BackendName):
        raise BackendUnavailable(
            f"unknown backend {name!r}: use one of {', '.join(get_args(BackendName))}"
        )
    return cast(BackendName, name)


def cpu_model(model: str = "auto", *, allow_untrained: bool = False) -> Model:
    """The model that ``model`` means on a CPU. What ``auto`` means on a GPU depends on the GPU:
    see :func:`engine.proofs.choose_model`, and ``info.model`` of the backend that was opened.

    Raises:
        ModelError: no such model, or it is untrained.
    """
    wanted = CPU_MODEL if model == "auto" else model
    return load_model(wanted, allow_untrained=allow_untrained)


def cpu_backend_name() -> Literal["winograd", "onnxruntime"]:
    """What ``auto`` takes where no GPU runs; nothing is opened."""
    try:
        Library()
    except BackendUnavailable:
        return "onnxruntime"
    return "winograd"


def model_of(info: BackendInfo, wanted: str = "auto") -> Model:
    """The model that an opened backend runs, trained or not; ``wanted`` is what it was opened with.

    Raises:
        ModelError: no such model.
    """
    name = info.model if wanted == "auto" and info.model else wanted
    return cpu_model(name, allow_untrained=True)


def _open_best(request: _Request) -> Backend:
    """The first TensorRT that runs here, else the CPU; a broken plan is an error, not a CPU."""
    refusals = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return _open_gpu(name, request, f"auto: {name} runs here")
        except BackendUnavailable as refusal:
            refusals.append(str(refusal))
    try:
        return _open_winograd(request, f"auto: {'; '.join(refusals)}")
    except BackendUnavailable as refusal:
        refusals.append(str(refusal))
    return _open_onnxruntime(request, f"auto: {'; '.join(refusals)}")


def _open_winograd(request: _Request, reason: str) -> Backend:
    model = cpu_model(request.model, allow_untrained=request.allow_untrained)
    return WinogradBackend(model, request.threads, _with_model(reason, request, model))


def _open_onnxruntime(request: _Request, reason: str) -> Backend:
    model = cpu_model(request.model, allow_untrained=request.allow_untrained)
    return OnnxRuntimeBackend(model, request.threads, reason=_with_model(reason, request, model))


def _open_gpu(name: Literal["tensorrt", "tensorrt_rtx"], request: _Request, reason: str) -> Backend:
    from engine.gpu import GpuOptions, open_gpu_backend

    model = None
    if request.model != "auto":
        model = load_model(request.model, allow_untrained=request.allow_untrained)
    options = GpuOptions(
        cache_dir=request.cache_dir,
        on_progress=request.on_progress,
        notify=request.notify,
        reason=reason,
        threads=request.threads,
    )
    return open_gpu_backend(name, model, options)


def _with_model(reason: str, request: _Request, model: Model) -> str:
    return f"{reason}; model auto: {model.name}" if request.model == "auto" else reason
