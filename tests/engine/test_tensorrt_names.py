"""Full TensorRT cannot run here; that every name the shim uses exists in its bindings can be seen.

``tests/data/tensorrt`` holds the public names of the real modules, class by class.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTS = sorted((ROOT / "tests" / "data" / "tensorrt").glob("names-*.txt"))
SOURCES = [ROOT / "engine" / "backends" / f"tensorrt{part}.py" for part in ("", "_shim", "_log")]

CLASS_OF = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "layer": "ILayer",
    "t": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "self.engine": "ICudaEngine",
    "self.context": "IExecutionContext",
    "parser.get_error()": "ParserError",
}
"""What the shim calls its objects -> their class in the bindings."""

CONVOLUTION_ONLY = {"kernel", "bias"}
"""Read after a layer was cast to IConvolutionLayer."""

PYTHON_ONLY = {"trt.__version__", "layer.__class__", "trt.IProgressMonitor.__init__"}


def spelled(node: ast.expr) -> str:
    """``trt.DataType.HALF`` for such an expression; calls and indices are shown as ``()``."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{spelled(value)}.{name}"
        case ast.Call(func=function):
            return f"{spelled(function)}()"
        case _:
            return "?"


def names_used() -> set[str]:
    """``Class.attribute`` of every access to a TensorRT object in the shim."""
    used = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Attribute) or spelled(node) in PYTHON_ONLY:
                continue
            owner = spelled(node.value)
            if owner == "trt" or owner.startswith("trt."):
                used.add(spelled(node).removeprefix("trt."))
            elif owner == "layer" and node.attr in CONVOLUTION_ONLY:
                used.add(f"IConvolutionLayer.{node.attr}")
            elif owner in CLASS_OF:
                used.add(f"{CLASS_OF[owner]}.{node.attr}")
    return used


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_name_the_shim_uses_is_in_the_bindings(path: Path) -> None:
    known = {line for line in path.read_text().splitlines() if not line.startswith("#")}
    assert names_used() - known == set()


def test_the_check_sees_the_calls_that_matter() -> None:
    assert {
        "Builder.build_serialized_network",
        "IExecutionContext.execute_async_v3",
        "IBuilderConfig.tiling_optimization_level",
        "IConvolutionLayer.kernel",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Runtime.deserialize_cuda_engine",
        "ITimingCache.serialize",
        "ParserError.desc",
    } <= names_used()


def test_both_major_versions_are_covered() -> None:
    assert [path.stem.split("-")[1].split(".")[0] for path in LISTS] == ["10", "11"]


def test_flags_that_version_11_dropped_are_not_used() -> None:
    (eleven,) = [path for path in LISTS if "-11." in path.stem]
    assert "BuilderFlag.FP16" not in eleven.read_text()
    assert not any("BuilderFlag" in name or "EXPLICIT_BATCH" in name for name in names_used())
