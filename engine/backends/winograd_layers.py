"""A model's convolutions as the C kernels take them: folded, transformed, padded to whole vectors.

The same folding as in the ONNX graphs, in double precision, so that both compute the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.backends.base import LaneSpec
from engine.colour import colour_map
from engine.config import LEAKY_SLOPE, NetworkConfig
from engine.graph import colour_last, convolutions
from engine.graph_nv12 import CHROMA_SCALE, fold_first, fold_last
from engine.graph_writer import Convolution
from engine.models import Model

VECTOR = 8
"""Channels of a vector: what is written is a multiple of it."""

G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
"""The filter's transform of F(4x4, 3x3) with the points 0, 1, -1, 2, -2 and infinity."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution; layer 0 only turns bytes into floats."""

    weights: Floats
    """(36, I, O): a matrix for each position of a transformed tile."""
    bias: Floats
    """(O,)"""
    before: int = -1
    """Layer whose output is added before the activation; -1 is none."""
    after: int = -1
    """Layer whose output is added after the activation; -1 is none."""
    slope: float = 1.0
    """Of the activation below zero; 1 is none."""


def layers_of(model: Model, spec: LaneSpec) -> tuple[list[Layer], tuple[float, float, float]]:
    """The layers of a frame's way, and what is subtracted from its samples.

    Raises:
        ContractError: an unknown colour matrix.
    """
    folded, offset = _folded(model, spec)
    config = model.config
    layers = [Layer(np.zeros((0, 0, 0), np.float32), np.zeros(VECTOR, np.float32))]
    layers.append(_layer(folded["conv_in"]))
    group_input = shortcut = 1
    for index in range(config.body):
        closes = config.closes_group(index)
        layers.append(
            _layer(
                folded[f"body.{index}"],
                before=group_input if closes else -1,
                after=shortcut if index == config.body - 1 else -1,
                slope=_slope(config),
            )
        )
        if closes:
            group_input = len(layers) - 1
    layers += [_layer(folded["conv_mid"]), _layer(folded["conv_out"])]
    return layers, offset


def transformed(weight: NDArray[np.floating]) -> Floats:
    """(O, I, 3, 3) -> (36, I, O): G g G' of every kernel."""
    spread = np.einsum("ia,ocab,jb->ijco", G, weight, G)
    return np.ascontiguousarray(spread.reshape(36, *spread.shape[2:]), np.float32)


def _layer(
    convolution: Convolution, before: int = -1, after: int = -1, slope: float = 1.0
) -> Layer:
    missing = -len(convolution.bias) % VECTOR
    weight = np.pad(convolution.weight, ((0, missing), (0, 0), (0, 0), (0, 0)))
    bias = np.pad(convolution.bias, (0, missing)).astype(np.float32)
    return Layer(aligned(transformed(weight)), aligned(bias), before, after, slope)


def aligned(array: Floats) -> Floats:
    """A copy that begins on a cache line."""
    memory = np.empty(array.size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def _slope(config: NetworkConfig) -> float:
    return 0.0 if config.activation == "relu" else LEAKY_SLOPE


def _folded(
    model: Model, spec: LaneSpec
) -> tuple[dict[str, Convolution], tuple[float, float, float]]:
    layers = convolutions(model)
    first, last = layers["conv_in"], layers["conv_out"]
    if spec.format == "rgb24":
        layers["conv_in"] = Convolution(first.weight / 255, first.bias)
        layers["conv_out"] = colour_last(Convolution(last.weight * 255, last.bias * 255))
        return layers, (0.0, 0.0, 0.0)
    colours = colour_map(spec.matrix, spec.full_range)
    layers["conv_in"] = fold_first(first, colours)
    layers["conv_out"] = _chroma_last(fold_last(last, colours))
    y, cb, cr = (float(number) for number in colours.offset)
    return layers, (y, cb, cr)


def _chroma_last(convolution: Convolution) -> Convolution:
    """The last nv12 convolution with its chroma ordered row, column, Cb or Cr."""
    order = np.arange(len(convolution.bias))
    luma = len(order) - 2 * CHROMA_SCALE**2
    order[luma:] = order[luma:].reshape(2, -1).T.reshape(-1)
    return Convolution(convolution.weight[order], convolution.bias[order])
