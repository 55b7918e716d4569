"""TensorRT for RTX: plans built ahead of time, on any machine, for a named compute capability.

A plan holds intermediate code that the runtime compiles for the GPU when a context is made; the
runtime cache keeps the result (``engine.checked_file``). SM75 must be alone in its plan.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.backends.tensorrt_runtime import TrtRuntime, cuda_of, import_trt
from engine.backends.tensorrt_shim import LoadedPlan, deserialize, ready
from engine.checked_file import read_checked, write_checked
from engine.contract import FrameFormat
from engine.errors import PlanError
from engine.plan import Size

TARGETS = MappingProxyType(
    {"7.5": "SM75", "8.0": "SM80", "8.6": "SM86", "8.9": "SM89", "12.0": "SM120"}
)
"""Compute capability -> the builder's name for it. A T4 is 7.5; Hopper (9.0) is not a target."""


def runtime(
    cache_file: Path | None = None, load: Callable[[str], Any] = import_module
) -> TrtRuntime:
    """The installed TensorRT for RTX.

    Args:
        cache_file: where code compiled for this GPU is kept; None keeps none.
        load: imports a module by name.

    Raises:
        BackendUnavailable: not installed, or it does not load.
    """
    trt = import_trt("tensorrt_rtx", "rtx", load)
    return TrtRuntime(
        name="tensorrt_rtx",
        trt=trt,
        cuda_version=cuda_of("tensorrt_rtx"),
        load=partial(load_rtx, trt, cache_file),
        targets=TARGETS,
        aim=partial(aim, trt),
    )


def aim(trt: Any, config: Any, target: str) -> None:
    """Makes ``config`` build for one compute capability, and for nothing else.

    Raises:
        PlanError: this release does not build for it.
    """
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(trt.ComputeCapability, target), 0):
        raise PlanError(f"TensorRT for RTX {trt.__version__} does not build for {target}")


def load_rtx(
    trt: Any, cache_file: Path | None, data: bytes, frame_format: FrameFormat, size: Size
) -> LoadedPlan:
    """A plan ready to run, its kernels compiled, with CUDA graphs left to the runtime.

    Raises:
        PlanError: the runtime refuses the plan.
        OutOfMemory: no device memory for it.
    """
    owner, engine = deserialize(trt, data, frame_format)
    config = engine.create_runtime_config()
    # Captured by the runtime itself; PyCUDA has no graph API.
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    # Kernels for the exact size before the first frame instead of behind the first hundred.
    config.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    cache = config.create_runtime_cache() if cache_file is not None else None
    known = read_checked(cache_file) if cache_file is not None else None
    if cache is not None:
        if known is not None:
            cache.deserialize(known)  # False on another driver or GPU: it is simply made anew
        config.set_runtime_cache(cache)
    context = engine.create_execution_context(config)
    plan = ready(trt, LoadedPlan(trt, frame_format, engine, context, [owner, config, cache]), size)
    if cache is not None and cache_file is not None:
        compiled = bytes(cache.serialize())
        if compiled != known:
            write_checked(cache_file, compiled)
    return plan
