"""TensorRT for RTX at run time: kernels compiled early, kept, and CUDA graphs left to it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.backends import tensorrt_rtx
from engine.checked_file import read_checked, write_checked
from engine.errors import BackendUnavailable, OutOfMemory, PlanError
from tests.engine.fake_tensorrt import FakeTensorRT

CLASS_OF = {
    "load_rtx": {"config": "IRuntimeConfig", "cache": "IRuntimeCache", "engine": "ICudaEngine"},
    "aim": {"config": "IBuilderConfig"},
}
"""Function -> what it calls its objects -> their class."""


class FakeRuntimeCache:
    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob if blob.startswith(b"kernels") else b""
        return bool(self.content)

    def serialize(self) -> bytes:
        return self.content or b"kernels 1"


class FakeRtx(FakeTensorRT):
    """Full TensorRT's fake with what only RTX has."""

    def __init__(self) -> None:
        super().__init__()
        self.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
        self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
        self.config: Any = None
        fake = self
        plain = self.ICudaEngine  # type: ignore[attr-defined]
        context_of = plain.create_execution_context

        def create_runtime_config(engine: Any) -> Any:
            fake.config = SimpleNamespace(
                create_runtime_cache=FakeRuntimeCache,
                set_runtime_cache=lambda cache: setattr(fake.config, "cache", cache),
                cache=None,
            )
            return fake.config

        plain.create_runtime_config = create_runtime_config
        plain.create_execution_context = lambda engine, config=None: context_of(engine)


def test_the_runtime_captures_graphs_and_compiles_before_the_first_frame() -> None:
    trt = FakeRtx()
    plan = tensorrt_rtx.load_rtx(trt, None, b"PLAN", "rgb24", (32, 48))
    assert trt.config.cuda_graph_strategy == "whole"
    assert trt.config.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert trt.config.cache is None
    plan.release()


def test_compiled_kernels_are_kept_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "rtx.cache"
    trt = FakeRtx()
    tensorrt_rtx.load_rtx(trt, path, b"PLAN", "rgb24", (32, 48))
    assert read_checked(path) == b"kernels 1"
    write_checked(path, b"kernels 2")
    tensorrt_rtx.load_rtx(trt, path, b"PLAN", "rgb24", (32, 48))
    assert trt.config.cache.content == b"kernels 2"


@pytest.mark.parametrize("damage", [b"", b"of another driver"])
def test_kernels_of_another_driver_are_made_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "rtx.cache"
    write_checked(path, damage)
    tensorrt_rtx.load_rtx(FakeRtx(), path, b"PLAN", "rgb24", (32, 48))
    assert read_checked(path) == b"kernels 1"


def test_no_memory_and_a_foreign_plan_are_told_apart(tmp_path: Path) -> None:
    trt = FakeRtx()
    with pytest.raises(PlanError, match="does not load"):
        tensorrt_rtx.load_rtx(trt, None, b"OLD", "rgb24", (32, 48))
    trt.fake_no_context = True
    with pytest.raises(OutOfMemory):
        tensorrt_rtx.load_rtx(trt, None, b"PLAN", "rgb24", (32, 48))


def test_a_target_that_a_release_dropped_is_a_plan_error() -> None:
    trt = SimpleNamespace(ComputeCapability=SimpleNamespace(SM75=75), __version__="9.9")
    config = SimpleNamespace(set_compute_capability=lambda target, index: False)
    with pytest.raises(PlanError, match="does not build for SM75"):
        tensorrt_rtx.aim(trt, config, "SM75")


def test_a_missing_library_names_its_extra() -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    with pytest.raises(BackendUnavailable, match=r"pip install '\.\[rtx\]'"):
        tensorrt_rtx.runtime(load=missing)


@pytest.mark.parametrize("function", sorted(CLASS_OF))
def test_every_name_used_is_in_the_real_module(function: str) -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' (no GPU needed)")
    tree = ast.parse(inspect.getsource(getattr(tensorrt_rtx, function)))
    used = [
        (CLASS_OF[function][node.value.id], node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in CLASS_OF[function]
    ]
    assert used
    assert all(hasattr(getattr(real, owner), name) for owner, name in used), used
    assert real.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None
    assert real.DynamicShapesKernelSpecializationStrategy.EAGER is not None
    assert all(hasattr(real.ComputeCapability, name) for name in tensorrt_rtx.TARGETS.values())
