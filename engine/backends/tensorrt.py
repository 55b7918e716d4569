"""NVIDIA's full TensorRT, 10.x and 11.x: plans for the GPU at hand. Never executed by us.

Everything it does differently from TensorRT for RTX is here; the rest is the shared shim. A test
checks each attribute the shim uses against the names of the 10.9 and 11.4 bindings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from engine.backends.tensorrt_runtime import TrtRuntime, cuda_of, import_trt
from engine.backends.tensorrt_shim import load_plan
from engine.errors import BackendUnavailable

SUPPORTED = ("10", "11")
"""Major versions whose Python interface the shim knows."""


def runtime(load: Callable[[str], Any] = import_module) -> TrtRuntime:
    """The installed TensorRT.

    Raises:
        BackendUnavailable: not installed, does not load, or another major version.
    """
    trt = import_trt("tensorrt", "tensorrt", load)
    version = str(trt.__version__)
    if version.partition(".")[0] not in SUPPORTED:
        raise BackendUnavailable(f"TensorRT {version} is not 10.x or 11.x: install one of these")
    return TrtRuntime("tensorrt", trt, cuda_of("tensorrt"), partial(load_plan, trt))
