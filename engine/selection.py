"""Which backend and which model run: by name, or ``auto``, which says what it chose and why.

An explicit choice never falls back. Backends are imported only when they are needed, so that a
machine without CUDA or TensorRT imports everything here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from engine.backends.base import Backend
from engine.backends.nearest import NearestBackend
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.errors import BackendUnavailable
from engine.models import load_model

BackendName = Literal["auto", "onnxruntime", "tensorrt", "tensorrt_rtx", "nearest"]

CPU_MODEL = "fast"
"""What ``--model auto`` means on a CPU: the only width that is fast enough there."""

OnProgress = Callable[[str, float], None]
"""Told (what is being done, fraction in [0, 1]) while a plan is built."""


def open_backend(
    backend: str = "auto",
    model: str = "auto",
    *,
    threads: int | None = None,
    cache_dir: Path | None = None,
    on_progress: OnProgress | None = None,
    allow_untrained: bool = False,
) -> Backend:
    """Opens a runtime with a model; ``.info.detail["reason"]`` says why this one.

    Args:
        backend: a :data:`BackendName`.
        model: a name of ``engine.models.NAMES``, the path of a weights file, or ``auto``.
        threads: cores that a CPU backend uses for one frame; None is all of them.
        cache_dir: where plans are kept; None is the user's cache directory.
        on_progress: told how far a plan is built.
        allow_untrained: also run a width that nobody has trained.

    Raises:
        BackendUnavailable: unknown, or it cannot run here.
        ModelError: no such model, or it is untrained.
        PlanError: the plan could not be built or trusted.
    """
    if backend not in get_args(BackendName):
        names = ", ".join(get_args(BackendName))
        raise BackendUnavailable(f"unknown backend {backend!r}: use one of {names}")
    if backend == "nearest":
        return NearestBackend()
    if backend in ("tensorrt", "tensorrt_rtx"):
        raise BackendUnavailable(f"{backend} is not installed here: use --backend onnxruntime")
    reason = "asked for by name" if backend == "onnxruntime" else "auto: no TensorRT runs here"
    name = CPU_MODEL if model == "auto" else model
    return OnnxRuntimeBackend(
        load_model(name, allow_untrained=allow_untrained), threads, reason=reason
    )
