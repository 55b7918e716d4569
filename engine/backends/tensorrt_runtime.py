"""What differs between full TensorRT and TensorRT for RTX, as one value that others take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any, Literal

from engine.backends.tensorrt_shim import LoadedPlan
from engine.contract import FrameFormat
from engine.errors import BackendUnavailable
from engine.plan import Size

RuntimeName = Literal["tensorrt", "tensorrt_rtx"]


LoadPlan = Callable[[bytes, FrameFormat, Size], LoadedPlan]
"""Deserialises a plan for frames of one size. Called on the GPU thread."""


@dataclass(frozen=True, slots=True)
class TrtRuntime:
    """One installed TensorRT."""

    name: RuntimeName
    trt: Any
    """The imported module."""
    cuda_version: str
    """Major version of CUDA it was made for; empty when its package does not say."""
    load: LoadPlan
    targets: Mapping[str, str] = field(default_factory=dict)
    """Compute capability -> name in ``trt.ComputeCapability``: what it builds for ahead of time.
    Empty: it builds only for the GPU at hand."""
    aim: Callable[[Any, str], None] = lambda config, target: None
    """Sets a target on a builder's configuration."""

    @property
    def version(self) -> str:
        """All four parts."""
        return str(self.trt.__version__)

    def target_of(self, compute_capability: str) -> str:
        """The builder's name for a GPU; empty for a runtime that builds for the GPU at hand.

        Raises:
            BackendUnavailable: it builds ahead of time, but not for this one.
        """
        if not self.targets:
            return ""
        if compute_capability not in self.targets:
            known = ", ".join(name.replace(".", "") for name in self.targets)
            raise BackendUnavailable(
                f"TensorRT for RTX builds no plan for compute capability {compute_capability} "
                f"(only {known}): use --backend tensorrt or onnxruntime"
            )
        return self.targets[compute_capability]


def import_trt(name: RuntimeName, extra: str, load: Callable[[str], Any] = import_module) -> Any:
    """The module ``name``.

    Raises:
        BackendUnavailable: it is not installed, or its libraries do not load.
    """
    try:
        return load(name)
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"{name} is not installed: pip install '.[{extra}]', or use --backend onnxruntime"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailable(
            f"{name} is installed but does not load ({error}): check the driver and LD_LIBRARY_PATH"
        ) from error


def cuda_of(name: RuntimeName) -> str:
    """``13`` or ``12``, from the name of the wheel that is installed; empty when it is neither."""
    for major in ("13", "12"):
        try:
            metadata.version(f"{name}_cu{major}")
        except metadata.PackageNotFoundError:
            continue
        return major
    return ""
