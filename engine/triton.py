"""A model repository for NVIDIA's Triton Inference Server, from ONNX files and TensorRT plans.

One folder per file: ``NAME/config.pbtxt`` and ``NAME/1/model.onnx`` or ``NAME/1/model.plan``. The
configuration is read off the file itself, so that it cannot disagree with it. Knows nothing of
PyTorch and of Triton's own code; tests check the text against Triton's protobuf definition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto

from engine.cache import write_whole
from engine.contract import (
    RGB_INPUT,
    RGB_OUTPUT,
    SCALE,
    UV_INPUT,
    UV_OUTPUT,
    Y_INPUT,
    Y_OUTPUT,
)
from engine.errors import ContractError
from engine.graph_check import GraphInfo, check_graph
from engine.plan import Plan, Profile, read_plan, sha256_hex

VARYING = -1
"""A size that each request chooses."""

MAX_BATCH = 8
"""Frames that Triton may put into one run of a ``tensor`` graph; the others take one at a time."""

_TYPES = {int(TensorProto.UINT8): "TYPE_UINT8", int(TensorProto.FLOAT): "TYPE_FP32"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One input or output of a model, as Triton describes it."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    """Without the batch axis; :data:`VARYING` where the request decides."""


@dataclass(frozen=True, slots=True)
class TritonModel:
    """One folder of the repository."""

    name: str
    backend: str
    """``onnxruntime`` or ``tensorrt``."""
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    content: bytes
    parameters: dict[str, str]
    """What the file says of itself: hashes, precision."""
    max_batch_size: int = 0
    """0: the tensors have no batch axis."""

    @property
    def file_name(self) -> str:
        """The name that Triton looks for inside a version's folder."""
        return "model.plan" if self.backend == "tensorrt" else "model.onnx"

    def config(self) -> str:
        """``config.pbtxt``: a ``ModelConfig`` in protobuf's text format."""
        lines = [
            f"name: {_quoted(self.name)}",
            f"backend: {_quoted(self.backend)}",
            f"default_model_filename: {_quoted(self.file_name)}",
            f"max_batch_size: {self.max_batch_size}",
        ]
        lines += [_tensor("input", entry) for entry in self.inputs]
        lines += [_tensor("output", entry) for entry in self.outputs]
        if self.max_batch_size:
            lines.append("dynamic_batching { }")
        for key, text in sorted(self.parameters.items()):
            value = f"{{ string_value: {_quoted(text)} }}"
            lines.append(f"parameters {{ key: {_quoted(key)} value {value} }}")
        return "\n".join(lines) + "\n"


def write_repository(
    root: Path, onnx_files: Iterable[Path], plans: Iterable[Path] = ()
) -> list[Path]:
    """Writes one model folder per file into ``root`` (made when it is not there).

    Args:
        root: what ``tritonserver --model-repository`` is given.
        onnx_files: graphs of ``sr-engine export``; the folder is named after the file.
        plans: plans of ``sr-engine build --backend tensorrt``, each with its JSON beside it.

    Returns:
        the folders.

    Raises:
        ContractError: a graph breaks the contract, a plan is TensorRT for RTX's, or two files want
            the same folder; nothing is written.
        PlanError: a plan is not the one its JSON names.
        OSError: a file cannot be read or written.
    """
    models = [onnx_model(path) for path in onnx_files] + [plan_model(path) for path in plans]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ContractError(f"two files would both become {name!r}: give them other names")
    return [_write(root, model) for model in models]


def onnx_model(path: Path) -> TritonModel:
    """The folder of an ONNX file. Raises ContractError when it breaks the contract."""
    content = path.read_bytes()
    graph = check_graph(content)
    batched = graph.format == "tensor"
    proto = onnx.load_from_string(content).graph
    return TritonModel(
        _folder_name(path),
        "onnxruntime",
        tuple(_entry(value, batched) for value in proto.input),
        tuple(_entry(value, batched) for value in proto.output),
        content,
        _facts(graph),
        MAX_BATCH if batched else 0,
    )


def plan_model(path: Path) -> TritonModel:
    """The folder of a plan. Raises ContractError when Triton could not load it, or PlanError."""
    plan = read_plan(path)
    key = plan.record.key
    if key.backend != "tensorrt":
        raise ContractError(
            f"{path.name} is a plan of {key.backend}, and Triton loads only those of the full "
            "TensorRT: build it on Triton's own GPU with sr-engine build --backend tensorrt"
        )
    inputs, outputs = _plan_tensors(key.format, key.profile)
    return TritonModel(
        _folder_name(path), "tensorrt", inputs, outputs, plan.data, _plan_facts(plan)
    )


def _plan_tensors(
    frame_format: str, profile: Profile
) -> tuple[tuple[TensorEntry, ...], tuple[TensorEntry, ...]]:
    is_static = profile.minimum == profile.maximum
    height, width = profile.optimum if is_static else (VARYING, VARYING)
    if frame_format == "rgb24":
        return (
            (_bytes(RGB_INPUT, height, width, 3),),
            (_bytes(RGB_OUTPUT, _times(height, SCALE), _times(width, SCALE), 3),),
        )
    half = SCALE // 2
    return (
        (
            _bytes(Y_INPUT, height, width),
            _bytes(UV_INPUT, _halved(height), _halved(width), 2),
        ),
        (
            _bytes(Y_OUTPUT, _times(height, SCALE), _times(width, SCALE)),
            _bytes(UV_OUTPUT, _times(height, half), _times(width, half), 2),
        ),
    )


def _bytes(name: str, *dims: int) -> TensorEntry:
    return TensorEntry(name, "TYPE_UINT8", dims)


def _times(size: int, factor: int) -> int:
    return VARYING if size == VARYING else size * factor


def _halved(size: int) -> int:
    return VARYING if size == VARYING else (size + 1) // 2


def _entry(value: ValueInfoProto, batched: bool) -> TensorEntry:
    """``batched`` drops the first axis: Triton adds it back by itself."""
    tensor = value.type.tensor_type
    dims = [VARYING if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
    return TensorEntry(value.name, _TYPES[tensor.elem_type], tuple(dims[1:] if batched else dims))


def _tensor(kind: str, entry: TensorEntry) -> str:
    dims = ", ".join(str(size) for size in entry.dims)
    name = _quoted(entry.name)
    return f"{kind} {{ name: {name} data_type: {entry.data_type} dims: [ {dims} ] }}"


def _quoted(text: str) -> str:
    """A string of protobuf's text format, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


def _facts(graph: GraphInfo) -> dict[str, str]:
    known = ("weights_sha256", "trained", "precision", "matrix", "full_range")
    said = {name: graph.metadata[name] for name in known if name in graph.metadata}
    return {"onnx_sha256": graph.sha256, **said}


def _plan_facts(plan: Plan) -> dict[str, str]:
    record = plan.record
    return {
        "onnx_sha256": record.key.onnx_sha256,
        "plan_sha256": sha256_hex(plan.data),
        "precision": record.key.precision,
        "trained": str(record.trained).lower(),
        "tensorrt": record.key.backend_version,
        "gpu": record.key.gpu_name,
    }


def _folder_name(path: Path) -> str:
    """``fast.tensor.fp32.onnx`` -> ``fast-tensor-fp32``, ``fast.plan`` -> ``fast-plan``."""
    parts = path.name.split(".")
    return "-".join(parts[:-1] if parts[-1] == "onnx" else parts)


def _write(root: Path, model: TritonModel) -> Path:
    """The file before the configuration, so that no configuration ever names a missing file."""
    folder = root / model.name
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    write_whole(version / model.file_name, model.content)
    write_whole(folder / "config.pbtxt", model.config().encode())
    return folder
