"""Weights -> ONNX files, each one compared with PyTorch before it gets its name.

The only place besides ``engine.network`` that knows torch. The reference here is the plain
composition (colour conversion, network, pixel shuffle, colour conversion, 2x2 mean), written
without looking at how ``engine.graph`` folds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.backends.onnxruntime import open_session
from engine.colour import colour_map
from engine.contract import (
    RGB_INPUT,
    SCALE,
    TENSOR_INPUT,
    UV_INPUT,
    Y_INPUT,
    GraphFormat,
    Precision,
)
from engine.errors import ContractError
from engine.graph import build_graph
from engine.graph_check import GraphInfo, check_graph
from engine.models import Model
from engine.network import Network

MAX_DIFFERENCE: dict[Precision, float] = {"fp32": 1.0, "fp16": 4.0}
"""Grey levels by which a graph may differ from PyTorch in FP32 anywhere."""

MEAN_DIFFERENCE: dict[Precision, float] = {"fp32": 0.001, "fp16": 0.2}
"""Grey levels by which it may differ on average."""

Inputs = Mapping[str, NDArray[Any]]
"""Input name -> uint8 or float32 array."""

PROBE_SIZES = ((24, 36), (19, 23), (1, 1))
"""(height, width) of the frames on which a graph is compared."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Which graph of a model."""

    format: GraphFormat = "rgb24"
    precision: Precision = "fp32"
    matrix: str = "bt709"
    full_range: bool = False

    def file_name(self, model: str) -> str:
        """E.g. ``fast.nv12-bt709-limited.fp16.onnx``."""
        span = "full" if self.full_range else "limited"
        colours = f"-{self.matrix}-{span}" if self.format == "nv12" else ""
        return f"{model}.{self.format}{colours}.{self.precision}.onnx"


@dataclass(frozen=True, slots=True)
class Exported:
    """One file that was written."""

    path: Path
    graph: GraphInfo
    max_difference: float
    """From PyTorch FP32, in grey levels."""
    mean_difference: float


def export_model(model: Model, out_dir: Path, variants: Iterable[Variant]) -> list[Exported]:
    """Writes the ONNX files of a model into ``out_dir`` (made when it is not there).

    Raises:
        ContractError: a graph breaks the contract or differs from PyTorch; nothing is written.
        OSError: the folder cannot be written to.
    """
    exported = []
    for variant in variants:
        content = build_graph(
            model, variant.format, variant.precision, variant.matrix, variant.full_range
        )
        graph = check_graph(content)
        largest, mean = compare_with_torch(model, content, variant)
        path = out_dir / variant.file_name(model.name)
        _write(path, content)
        exported.append(Exported(path, graph, largest, mean))
    return exported


def load_network(model: Model) -> Network:
    """The PyTorch network with the weights of a model, for inference."""
    network = Network(model.config)
    network.load_state_dict({name: torch.from_numpy(a) for name, a in model.weights.items()})
    return network.eval().requires_grad_(False)


def compare_with_torch(model: Model, onnx_bytes: bytes, variant: Variant) -> tuple[float, float]:
    """(largest, mean) difference in grey levels between a graph and PyTorch FP32.

    Raises:
        ContractError: it is more than the precision explains.
    """
    session = open_session(onnx_bytes, threads=1)
    network = load_network(model)
    generator = np.random.default_rng(0)
    differences = []
    for height, width in PROBE_SIZES:
        inputs = probe(variant.format, height, width, generator)
        outputs = session.run(None, inputs)
        for found, expected in zip(outputs, reference(network, variant, inputs), strict=True):
            scale = 255 if variant.format == "tensor" else 1
            differences.append(np.abs(found.astype(np.float64) - expected.numpy()).ravel() * scale)
    every = np.concatenate(differences)
    largest, mean = float(every.max()), float(every.mean())
    if not (largest <= MAX_DIFFERENCE[variant.precision]) or not (
        mean <= MEAN_DIFFERENCE[variant.precision]
    ):
        raise ContractError(
            f"the {variant.precision} {variant.format} graph of {model.name!r} differs from "
            f"PyTorch by up to {largest:.3g} and {mean:.3g} grey levels on average: do not use it"
        )
    return largest, mean


def probe(
    graph_format: GraphFormat, height: int, width: int, generator: np.random.Generator
) -> Inputs:
    """Random inputs of a graph: smooth colours under noise, so that few results are clipped."""
    ramp = np.linspace(40, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    noisy = np.clip(ramp + generator.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)
    if graph_format == "rgb24":
        return {RGB_INPUT: noisy}
    if graph_format == "tensor":
        return {TENSOR_INPUT: noisy.transpose(2, 0, 1)[None].astype(np.float32) / 255}
    return {Y_INPUT: noisy[..., 0].copy(), UV_INPUT: noisy[::2, ::2, 1:].copy()}


def reference(network: Network, variant: Variant, inputs: Inputs) -> list[Tensor]:
    """What PyTorch makes of the same inputs: bytes as floats, or (N, 3, 4H, 4W) for ``tensor``."""
    if variant.format == "tensor":
        return [network(torch.from_numpy(inputs[TENSOR_INPUT]))]
    levels = reference_levels(network, variant, inputs)
    return [level.clamp(0, 255).round() for level in levels]


def reference_levels(network: Network, variant: Variant, inputs: Inputs) -> list[Tensor]:
    """Grey levels before Clip: [(4H, 4W, 3)] for rgb24, [(4H, 4W), (2H, 2W, 2)] for nv12."""
    if variant.format == "rgb24":
        x = torch.from_numpy(inputs[RGB_INPUT]).permute(2, 0, 1)[None].float() / 255
        return [network(x)[0].permute(1, 2, 0) * 255]
    colours = colour_map(variant.matrix, variant.full_range)
    to_rgb, from_rgb, offset = (
        torch.from_numpy(m).float() for m in (colours.to_rgb, colours.from_rgb, colours.offset)
    )
    y = torch.from_numpy(inputs[Y_INPUT]).float()
    uv = torch.from_numpy(inputs[UV_INPUT]).float().permute(2, 0, 1)
    uv = F.interpolate(uv[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    uv = uv[:, : y.shape[0], : y.shape[1]]
    samples = torch.cat([y[None], uv]) - offset[:, None, None]
    rgb = torch.einsum("cs,shw->chw", to_rgb, samples)
    made = torch.einsum("sc,chw->shw", from_rgb, network(rgb[None])[0])
    made = made + offset[:, None, None]
    return [made[0], F.avg_pool2d(made[1:], SCALE // 2).permute(1, 2, 0)]


def _write(path: Path, content: bytes) -> None:
    """Beside it first, then under its name, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
