"""The nv12 graph: colour matrix, range and 4:2:0 folded into the first and the last convolution.

In: chroma is interpolated between the centres of the 2x2 pixels that each sample covers (an odd
edge is cropped, as if the picture had been padded by replication); repeating it instead costs
0.03 dB (docs/experiments.md, nv12). Out: each chroma sample is the mean of its 2x2 pixels. Both are
linear, so the network still runs on three planes, and its last convolution gives
16 luma + 8 chroma channels instead of 48 colours. Offsets are subtracted before the first
convolution, so that its zero padding means black, as in the rgb24 graph.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from engine.colour import ColourMap, colour_map
from engine.config import NetworkConfig
from engine.contract import SCALE, UV_INPUT, UV_OUTPUT, Y_INPUT, Y_OUTPUT
from engine.graph_writer import Convolution, GraphWriter

CHROMA_SCALE = SCALE // 2
"""Output chroma samples per input luma sample, in each direction."""

Values = list[ValueInfoProto]


def fold_first(convolution: Convolution, colours: ColourMap) -> Convolution:
    """``conv_in`` for planes of (Y, Cb, Cr) minus offset: weights (C, 3, 3, 3)."""
    weight = np.einsum("ochw,cs->oshw", convolution.weight, colours.to_rgb)
    return Convolution(weight, convolution.bias)


def fold_last(convolution: Convolution, colours: ColourMap) -> Convolution:
    """``conv_out`` giving grey levels: 16 luma channels, then 4 of Cb and 4 of Cr (offset added).

    Channel order is that of DepthToSpace in CRD mode: plane, row, column.
    """
    weight, bias = (
        np.tensordot(colours.from_rgb, array.reshape(3, SCALE, SCALE, *array.shape[1:]), 1)
        for array in (convolution.weight, convolution.bias)
    )
    folded = []
    for array in (weight, bias):
        rest = array.shape[3:]
        luma = array[0].reshape(SCALE * SCALE, *rest)
        blocks = array[1:].reshape(2, CHROMA_SCALE, 2, CHROMA_SCALE, 2, *rest)
        folded.append(np.concatenate([luma, blocks.mean((2, 4)).reshape(-1, *rest)]))
    folded[1] += np.repeat(colours.offset, [SCALE * SCALE, CHROMA_SCALE**2, CHROMA_SCALE**2])
    return Convolution(folded[0], folded[1])


def nv12_graph(
    writer: GraphWriter,
    config: NetworkConfig,
    layers: dict[str, Convolution],
    matrix: str,
    full_range: bool,
) -> tuple[Values, Values]:
    """Writes the graph; returns its inputs and outputs. Raises ContractError (unknown matrix)."""
    colours = colour_map(matrix, full_range)
    folded = layers | {
        "conv_in": fold_first(layers["conv_in"], colours),
        "conv_out": fold_last(layers["conv_out"], colours),
    }
    features = writer.network(_planes(writer, colours), config, folded)
    _outputs(writer, writer.to_levels(features))
    inputs = [
        _image(Y_INPUT, "height", "width"),
        _image(UV_INPUT, "chroma_height", "chroma_width", 2),
    ]
    outputs = [
        _image(Y_OUTPUT, "height_x4", "width_x4"),
        _image(UV_OUTPUT, "height_x2", "width_x2", 2),
    ]
    return inputs, outputs


def _image(name: str, *sizes: str | int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, list(sizes))


def _planes(writer: GraphWriter, colours: ColourMap) -> str:
    """(1, 3, H, W): Y, Cb and Cr minus their offsets, chroma doubled and cropped to luma."""
    offset_y = writer.number("luma_offset", colours.offset[0])
    offset_uv = writer.number("chroma_offset", colours.offset[1])
    y = writer.node("Sub", writer.cast(Y_INPUT), offset_y)
    size = writer.node("Shape", y)
    y = writer.node("Unsqueeze", y, writer.integers("plane_axes", [0, 1]))
    uv = writer.node("Sub", writer.cast(UV_INPUT), offset_uv)
    uv = writer.node("Transpose", uv, perm=[2, 0, 1])
    uv = writer.node("Unsqueeze", uv, writer.integers("batch_axis", [0]))
    uv = writer.node(
        "Resize",
        uv,
        "",
        writer.floats("chroma_scales", [1, 1, 2, 2]),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    origin = writer.integers("origin", [0, 0])
    uv = writer.node("Slice", uv, origin, size, writer.integers("picture_axes", [2, 3]))
    return writer.node("Concat", y, uv, axis=1)


def _outputs(writer: GraphWriter, levels: str) -> None:
    channels = [SCALE * SCALE, 2 * CHROMA_SCALE**2]
    writer.integers("channels", channels)
    writer.nodes.append(
        helper.make_node("Split", [levels, "channels"], ["luma", "chroma"], name="n_split", axis=1)
    )
    y = writer.node("DepthToSpace", "luma", blocksize=SCALE, mode="CRD")
    y = writer.node("Squeeze", y, "plane_axes")
    writer.node("Cast", y, output=Y_OUTPUT, to=TensorProto.UINT8)
    uv = writer.node("DepthToSpace", "chroma", blocksize=CHROMA_SCALE, mode="CRD")
    uv = writer.node("Squeeze", uv, "batch_axis")
    uv = writer.node("Transpose", uv, perm=[1, 2, 0])
    writer.node("Cast", uv, output=UV_OUTPUT, to=TensorProto.UINT8)
