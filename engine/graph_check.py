"""Whether an ONNX file obeys the contract, and what it says about itself.

The same rules hold for our own graphs and for a file that somebody hands to a backend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto

from engine.contract import (
    OPSET,
    RGB_INPUT,
    RGB_OUTPUT,
    SCHEMA,
    TENSOR_INPUT,
    TENSOR_OUTPUT,
    UV_INPUT,
    UV_OUTPUT,
    Y_INPUT,
    Y_OUTPUT,
    GraphFormat,
)
from engine.errors import ContractError

Signature = dict[str, tuple[int, int]]
"""Tensor name -> (ONNX element type, rank)."""

BYTES, FLOATS = int(TensorProto.UINT8), int(TensorProto.FLOAT)

SIGNATURES: dict[GraphFormat, tuple[Signature, Signature]] = {
    "rgb24": ({RGB_INPUT: (BYTES, 3)}, {RGB_OUTPUT: (BYTES, 3)}),
    "nv12": (
        {Y_INPUT: (BYTES, 2), UV_INPUT: (BYTES, 3)},
        {Y_OUTPUT: (BYTES, 2), UV_OUTPUT: (BYTES, 3)},
    ),
    "tensor": ({TENSOR_INPUT: (FLOATS, 4)}, {TENSOR_OUTPUT: (FLOATS, 4)}),
}
"""Format -> inputs and outputs."""


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """What an ONNX file that obeys the contract says about itself."""

    format: GraphFormat
    metadata: dict[str, str]
    sha256: str


def check_graph(onnx_bytes: bytes) -> GraphInfo:
    """Reads and checks an ONNX file.

    Raises:
        ContractError: not an ONNX file, or it breaks a rule; the message names the first one.
    """
    try:
        model = onnx.load_from_string(onnx_bytes)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ContractError(f"this is not a valid ONNX file: {reason}") from error
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": OPSET}:
        raise ContractError(f"the graph uses operator sets {opsets}, expected ai.onnx {OPSET}")
    graph_format = _format(model)
    _check_bytes(model)
    if graph_format != "tensor":
        for output in model.graph.output:
            _check_ending(model, output.name)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get("schema", str(SCHEMA)) != str(SCHEMA):
        raise ContractError(
            f"the graph has metadata schema {metadata['schema']}, this version reads {SCHEMA}: "
            "export it again"
        )
    return GraphInfo(graph_format, metadata, hashlib.sha256(onnx_bytes).hexdigest())


def _format(model: ModelProto) -> GraphFormat:
    """The format whose inputs and outputs these are, with dynamic height and width."""
    found = _signature(model.graph.input), _signature(model.graph.output)
    formats = [name for name, expected in SIGNATURES.items() if expected == found]
    if not formats:
        raise ContractError(
            f"the graph's inputs {sorted(found[0])} and outputs {sorted(found[1])} or their types "
            f"fit none of {', '.join(SIGNATURES)}: export it with sr-engine export"
        )
    for value in model.graph.input:
        fixed = [d.dim_value for d in value.type.tensor_type.shape.dim if not d.dim_param]
        if fixed not in ([], [2], [3]):
            raise ContractError(
                f"{value.name} has a fixed size {fixed}: height and width must vary"
            )
    return formats[0]


def _signature(values: Iterable[ValueInfoProto]) -> Signature:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            len(value.type.tensor_type.shape.dim),
        )
        for value in values
    }


def _check_bytes(model: ModelProto) -> None:
    """TensorRT's rule: a uint8 tensor touches only Casts."""
    values = [*model.graph.input, *model.graph.output]
    names = {v.name for v in values if v.type.tensor_type.elem_type == BYTES}
    for node in model.graph.node:
        touched = names.intersection([*node.input, *node.output])
        if touched and node.op_type != "Cast":
            raise ContractError(
                f"the uint8 tensor {min(touched)!r} touches {node.op_type}: only Cast may"
            )
        if node.op_type == "Cast" and node.output[0] not in names:
            to = next(a.i for a in node.attribute if a.name == "to")
            if to == BYTES:
                raise ContractError(f"the graph casts to uint8 inside, at {node.output[0]!r}")


MOVING = frozenset({"Transpose", "Squeeze", "Unsqueeze", "Reshape", "DepthToSpace", "Split"})
"""Operators that move numbers without changing them."""


def _check_ending(model: ModelProto, output: str) -> None:
    """Before the last Cast come Round and, before it, Clip, with nothing but moves between."""
    makers = {name: node for node in model.graph.node for name in node.output}
    wanted = ["Cast", "Round", "Clip"]
    name = output
    while wanted:
        node = makers.get(name)
        if node is None or node.op_type not in {wanted[0], *MOVING}:
            found = node.op_type if node else "the input"
            raise ContractError(
                f"{output!r} must come from Clip, Round and Cast in this order, found {found} "
                f"instead of {wanted[0]}"
            )
        if node.op_type == wanted[0]:
            wanted.pop(0)
        name = node.input[0]
