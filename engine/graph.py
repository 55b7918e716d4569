"""ONNX graphs of a model, straight from its weights: every format, precision and colour matrix.

A uint8 tensor touches only Casts (TensorRT's rule), height and width are dynamic, and the same
arguments give the same bytes, which name the plans made from them.
"""

from __future__ import annotations

import json

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from engine.contract import (
    OPSET,
    RGB_INPUT,
    RGB_OUTPUT,
    SCALE,
    SCHEMA,
    TENSOR_INPUT,
    TENSOR_OUTPUT,
    GraphFormat,
    Precision,
)
from engine.errors import ContractError
from engine.graph_nv12 import nv12_graph
from engine.graph_writer import Convolution, GraphWriter
from engine.models import Model

IR_VERSION = 8
"""The file format of opset 17, so that runtimes of that age load our graphs."""


def build_graph(
    model: Model,
    graph_format: GraphFormat,
    precision: Precision = "fp32",
    matrix: str = "bt709",
    full_range: bool = False,
) -> bytes:
    """The ONNX file of a model.

    Args:
        model: the weights.
        graph_format: what goes in and out; see ``engine.contract``.
        precision: in which the network computes; inputs and outputs do not change with it.
        matrix: colour matrix of nv12 samples (``bt601``, ``bt709``, ``bt2020``).
        full_range: whether nv12 samples span 0..255.

    Raises:
        ContractError: an unknown format or matrix, or weights too large for FP16.
    """
    writer = GraphWriter(precision)
    layers = convolutions(model)
    match graph_format:
        case "rgb24":
            inputs, outputs = _rgb24(writer, model, layers)
        case "tensor":
            inputs, outputs = _tensor(writer, model, layers)
        case "nv12":
            inputs, outputs = nv12_graph(writer, model.config, layers, matrix, full_range)
        case _:
            raise ContractError(f"unknown graph format {graph_format!r}: rgb24, nv12 or tensor")
    metadata = describe(model, graph_format, precision)
    if graph_format == "nv12":
        metadata |= {"matrix": matrix, "full_range": str(full_range).lower()}
    return _serialize(writer, inputs, outputs, metadata)


def convolutions(model: Model) -> dict[str, Convolution]:
    """Layer name -> weights, in double precision so that folding adds no rounding of its own."""
    names = [key.removesuffix(".weight") for key in model.weights if key.endswith(".weight")]
    return {
        name: Convolution(
            model.weights[f"{name}.weight"].astype(np.float64),
            model.weights[f"{name}.bias"].astype(np.float64),
        )
        for name in names
    }


def describe(model: Model, graph_format: GraphFormat, precision: Precision) -> dict[str, str]:
    """The metadata written into the ONNX file: what it is and which weights it holds."""
    return {
        "schema": str(SCHEMA),
        "model": model.name,
        "weights_sha256": model.sha256,
        "trained": str(model.trained).lower(),
        "format": graph_format,
        "precision": precision,
        "config": json.dumps(model.config.to_dict(), sort_keys=True),
    }


Values = list[ValueInfoProto]


def _rgb24(
    writer: GraphWriter, model: Model, layers: dict[str, Convolution]
) -> tuple[Values, Values]:
    first, last = layers["conv_in"], layers["conv_out"]
    on_cpu = writer.precision == "fp32"
    scaled = layers | {
        "conv_in": Convolution(first.weight / 255, first.bias),
        "conv_out": Convolution(last.weight * 255, last.bias * 255),
    }
    if on_cpu:
        scaled["conv_out"] = colour_last(scaled["conv_out"])
    samples = writer.cast(RGB_INPUT)
    channels = writer.node("Transpose", samples, perm=[2, 0, 1])
    x = writer.node("Unsqueeze", channels, writer.integers("batch_axis", [0]))
    features = writer.network(x, model.config, scaled)
    pixels = _pixels_cpu(writer, features, samples) if on_cpu else _pixels_gpu(writer, features)
    writer.node("Cast", pixels, output=RGB_OUTPUT, to=TensorProto.UINT8)
    return (
        [helper.make_tensor_value_info(RGB_INPUT, TensorProto.UINT8, ["height", "width", 3])],
        [
            helper.make_tensor_value_info(
                RGB_OUTPUT, TensorProto.UINT8, ["height_x4", "width_x4", 3]
            )
        ],
    )


def _pixels_gpu(writer: GraphWriter, features: str) -> str:
    """(1, 48, H, W) -> (4H, 4W, 3) grey levels: Clip and Round fuse into the convolution."""
    shuffled = writer.node("DepthToSpace", writer.to_levels(features), blocksize=SCALE, mode="CRD")
    planes = writer.node("Squeeze", shuffled, "batch_axis")
    return writer.node("Transpose", planes, perm=[1, 2, 0])


def _pixels_cpu(writer: GraphWriter, features: str, samples: str) -> str:
    """(1, 48, H, W), colour last -> (4H, 4W, 3) grey levels.

    ONNX Runtime fuses the first Transpose with leaving its blocked layout, and the second one
    moves runs of 12 numbers: 8-13 % faster than DepthToSpace (docs/experiments.md, CPU graph).
    """
    clipped = writer.clip(features)
    channels_last = writer.node("Transpose", clipped, perm=[0, 2, 3, 1])
    levels = writer.node("Squeeze", writer.node("Round", channels_last), "batch_axis")
    blocks = writer.node("Reshape", levels, writer.integers("blocks", [0, 0, SCALE, SCALE * 3]))
    lines = writer.node("Transpose", blocks, perm=[0, 2, 1, 3])
    size = writer.node(
        "Mul", writer.node("Shape", samples), writer.integers("growth", [SCALE, SCALE, 1])
    )
    return writer.node("Reshape", lines, size)


def colour_last(convolution: Convolution) -> Convolution:
    """The last convolution with its channels ordered row, column, colour."""
    return Convolution(
        *(
            np.moveaxis(array.reshape(3, SCALE * SCALE, *array.shape[1:]), 0, 1).reshape(
                array.shape
            )
            for array in (convolution.weight, convolution.bias)
        )
    )


def _tensor(
    writer: GraphWriter, model: Model, layers: dict[str, Convolution]
) -> tuple[Values, Values]:
    half = writer.precision == "fp16"
    x = writer.cast(TENSOR_INPUT) if half else TENSOR_INPUT
    features = writer.network(x, model.config, layers)
    name = "" if half else TENSOR_OUTPUT
    shuffled = writer.node("DepthToSpace", features, output=name, blocksize=SCALE, mode="CRD")
    if half:
        writer.node("Cast", shuffled, output=TENSOR_OUTPUT, to=TensorProto.FLOAT)
    sizes_in: list[str | int] = ["batch", 3, "height", "width"]
    sizes_out: list[str | int] = ["batch", 3, "height_x4", "width_x4"]
    return (
        [helper.make_tensor_value_info(TENSOR_INPUT, TensorProto.FLOAT, sizes_in)],
        [helper.make_tensor_value_info(TENSOR_OUTPUT, TensorProto.FLOAT, sizes_out)],
    )


def _serialize(
    writer: GraphWriter, inputs: Values, outputs: Values, metadata: dict[str, str]
) -> bytes:
    name = f"{metadata['model']} {metadata['format']} {metadata['precision']}"
    graph = helper.make_graph(writer.nodes, name, inputs, outputs, writer.constants)
    proto = helper.make_model(
        graph,
        producer_name="sr-server",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(proto, dict(sorted(metadata.items())))
    return bytes(proto.SerializeToString(deterministic=True))
