"""Writes ONNX nodes one after another, and the network's layers with them.

Only onnx and NumPy: graphs are made on the serving path too, where there is no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from engine.config import LEAKY_SLOPE, NetworkConfig
from engine.contract import Precision
from engine.errors import ContractError

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Convolution:
    """Weights (O, I, 3, 3) and bias (O,) of one 3x3 convolution with zero padding of 1."""

    weight: Floats
    bias: Floats


@dataclass(slots=True)
class GraphWriter:
    """Collects nodes and constants in the order in which a frame meets them."""

    precision: Precision
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    @property
    def element_type(self) -> int:
        """The ONNX type in which the network computes."""
        return int(TensorProto.FLOAT16 if self.precision == "fp16" else TensorProto.FLOAT)

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Adds one node; returns the name of its only output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [output], name=f"n_{output}")
        for key in sorted(attributes):
            node.attribute.append(helper.make_attribute(key, attributes[key]))
        self.nodes.append(node)
        return output

    def number(self, name: str, values: object) -> str:
        """Adds a constant of the network's own type. Raises ContractError when FP16 overflows."""
        dtype = np.float16 if self.precision == "fp16" else np.float32
        with np.errstate(over="ignore"):
            array = np.asarray(values, np.float64).astype(dtype)
        if not np.isfinite(array).all():
            raise ContractError(f"{name} does not fit {self.precision}: retrain or use fp32")
        return self._constant(name, array)

    def integers(self, name: str, values: list[int]) -> str:
        """Adds a one-dimensional int64 constant: axes, sizes, positions."""
        return self._constant(name, np.array(values, np.int64))

    def floats(self, name: str, values: list[float]) -> str:
        """Adds a float32 constant whatever the precision (scales of a Resize)."""
        return self._constant(name, np.array(values, np.float32))

    def _constant(self, name: str, array: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, x: str) -> str:
        """To the network's own type; for uint8 this is the only node that may touch it."""
        return self.node("Cast", x, to=self.element_type)

    def convolve(self, x: str, name: str, convolution: Convolution) -> str:
        """A 3x3 convolution, zero padded."""
        rounded = round_taps(convolution.weight) if self.precision == "fp16" else convolution.weight
        weight = self.number(f"{name}.weight", rounded)
        bias = self.number(f"{name}.bias", convolution.bias)
        return self.node(
            "Conv", x, weight, bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]
        )

    def activate(self, x: str, config: NetworkConfig) -> str:
        """The activation of the configuration."""
        if config.activation == "relu":
            return self.node("Relu", x)
        return self.node("LeakyRelu", x, alpha=LEAKY_SLOPE)

    def network(self, x: str, config: NetworkConfig, layers: dict[str, Convolution]) -> str:
        """(N, I, H, W) -> (N, O, H, W): all convolutions, before any pixel is shuffled."""
        shortcut = h = group_input = self.convolve(x, "conv_in", layers["conv_in"])
        for index in range(config.body):
            h = self.convolve(h, f"body.{index}", layers[f"body.{index}"])
            if config.closes_group(index):
                h = self.node("Add", h, group_input)
            h = self.activate(h, config)
            if config.closes_group(index):
                group_input = h
        h = self.node("Add", shortcut, h)
        h = self.convolve(h, "conv_mid", layers["conv_mid"])
        return self.convolve(h, "conv_out", layers["conv_out"])

    def clip(self, x: str) -> str:
        """To 0..255, so that what is rounded and cast next can never wrap."""
        return self.node("Clip", x, self.number("black", 0), self.number("white", 255))

    def to_levels(self, x: str) -> str:
        """Grey levels as floats -> whole numbers in 0..255."""
        return self.node("Round", self.clip(x))


def round_taps(weight: Floats) -> Floats:
    """(O, I, 3, 3) rounded to FP16 so that the nine taps of a kernel keep their sum.

    The rounding error of each tap is carried into the next, from the largest to the smallest.
    Activations hardly change within 3x3 pixels of a picture, so that the errors cancel: measured,
    five to ten times less error from weights on natural pictures (docs/experiments.md, FP16).
    """
    taps = weight.astype(np.float64).reshape(*weight.shape[:2], -1)
    order = np.argsort(-np.abs(taps), axis=2, kind="stable")
    ordered = np.take_along_axis(taps, order, 2)
    rounded = np.empty_like(ordered)
    carry = np.zeros(ordered.shape[:2])
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what overflows
        for tap in range(ordered.shape[2]):
            wanted = ordered[:, :, tap] + carry
            rounded[:, :, tap] = wanted.astype(np.float16)
            carry = wanted - rounded[:, :, tap]
    np.put_along_axis(taps, order, rounded, 2)
    return taps.reshape(weight.shape)
