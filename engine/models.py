"""Weights: reading them from a safetensors file, checking them, and knowing where they came from.

Knows nothing of torch, ONNX or backends. A width that nobody has trained yet exists as a stand-in
made from seed 0: it enlarges by repetition plus a little seeded noise, and says ``trained: false``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, numpy

from engine.config import NetworkConfig
from engine.contract import MODELS, SCALE, ModelName
from engine.errors import ModelError

NAMES: tuple[str, ...] = get_args(ModelName)
"""Names that need no path."""

MODELS_DIR = Path(__file__).with_name("models")
"""Where the shipped weights and their ONNX files lie, as package data."""

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Model:
    """One set of weights and what is known about it."""

    name: str
    """``fast`` ... or the stem of the file it was read from."""
    config: NetworkConfig
    weights: Weights
    """``conv_in.weight``, ``conv_in.bias``, ``body.0.weight`` ...: float32, OIHW."""
    trained: bool
    sha256: str
    """Of the bytes of the weights file."""
    metadata: Mapping[str, str]
    """The header of the file, as it is: config, trained, name and provenance."""

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(int(array.size) for array in self.weights.values())


def load_model(name_or_path: str | Path, *, allow_untrained: bool = False) -> Model:
    """Reads and checks a model.

    Args:
        name_or_path: one of :data:`NAMES` or the path of a ``.safetensors`` file.
        allow_untrained: also give a width that nobody has trained.

    Raises:
        ModelError: unknown, missing, damaged, or untrained and not allowed.
    """
    if str(name_or_path) in NAMES:
        name = str(name_or_path)
        path = MODELS_DIR / f"{name}.safetensors"
        content = path.read_bytes() if path.is_file() else stand_in(name)
    else:
        path = Path(name_or_path)
        name = path.stem
        content = _read(path)
    model = parse_model(content, name)
    if not (model.trained or allow_untrained):
        raise ModelError(
            f"the weights of {name!r} are untrained (made from seed 0): choose another model or "
            "train it with sr-train fit"
        )
    return model


def _read(path: Path) -> bytes:
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{str(path)!r} is not a model: name one of {', '.join(NAMES)} or a .safetensors file"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the weights {str(path)!r}: {error.strerror}") from error


def parse_model(content: bytes, name: str) -> Model:
    """Parses the bytes of a weights file called ``name``. Raises ModelError when it is damaged."""
    try:
        metadata = _header(content)
        weights = {key: np.ascontiguousarray(a) for key, a in numpy.load(content).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"the weights of {name!r} are not a safetensors file: {error}") from error
    config = parse_config(metadata, name)
    check_weights(weights, config, name)
    return Model(
        name=name,
        config=config,
        weights=weights,
        trained=metadata.get("trained") == "true",
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=metadata,
    )


def _header(content: bytes) -> dict[str, str]:
    """The str -> str metadata of safetensors bytes; the library only reads it from a file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return dict(header.get("__metadata__", {}))


def parse_config(metadata: Mapping[str, str], name: str) -> NetworkConfig:
    """The NetworkConfig in a header. Raises ModelError when there is none or it is impossible."""
    try:
        values = json.loads(metadata["config"])
        known = {f.name for f in fields(NetworkConfig)}
        if not isinstance(values, dict) or not values.keys() <= known:
            raise ValueError(f"expected the fields {sorted(known)}, got {values}")
        return NetworkConfig(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the header of {name!r} has no usable network config: {error}") from error


def expected_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of every weight and bias, in the order a frame meets them."""
    c, out = config.width, 3 * SCALE * SCALE
    convolutions = [("conv_in", 3, c)]
    convolutions += [(f"body.{index}", c, c) for index in range(config.body)]
    convolutions += [("conv_mid", c, c), ("conv_out", c, out)]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, inputs, outputs in convolutions:
        shapes[f"{name}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{name}.bias"] = (outputs,)
    return shapes


def check_weights(weights: Weights, config: NetworkConfig, name: str) -> None:
    """Raises ModelError unless ``weights`` are exactly the finite float32 tensors of ``config``."""
    shapes = expected_shapes(config)
    if weights.keys() != shapes.keys():
        odd = ", ".join(sorted(weights.keys() ^ shapes.keys())[:4])
        raise ModelError(f"the weights of {name!r} do not fit their config: check {odd}")
    for key, shape in shapes.items():
        array = weights[key]
        if array.shape != shape or array.dtype != np.float32:
            raise ModelError(
                f"{key} of {name!r} should be float32 {shape}, got {array.dtype} {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ModelError(f"{key} of {name!r} holds NaN or infinity: the file is damaged")


def stand_in(name: str) -> bytes:
    """Safetensors bytes of untrained weights for a name of :data:`NAMES`, always the same.

    The first three channels carry the picture to the output, where every pixel is repeated; the
    rest is He noise, small where it reaches the picture: every layer matters to a comparison.
    """
    config = NetworkConfig(width=MODELS.get(name, MODELS["fast"]))
    generator = np.random.default_rng(0)
    weights: Weights = {}
    for key, shape in expected_shapes(config).items():
        if key.endswith("bias"):
            weights[key] = np.zeros(shape, np.float32)
            continue
        noise = generator.standard_normal(shape) * np.sqrt(2 / (shape[1] * 9))
        weights[key] = (noise * (0.005 if key in _CARRIERS else 1)).astype(np.float32)
    for colour in range(3):
        weights["conv_in.weight"][colour, colour, 1, 1] += 1
        weights["conv_mid.weight"][colour, colour, 1, 1] += 1
        first = colour * SCALE * SCALE
        weights["conv_out.weight"][first : first + SCALE * SCALE, colour, 1, 1] += 1
    metadata = {"config": json.dumps(config.to_dict()), "name": name, "trained": "false"}
    return serialize(weights, metadata)


_CARRIERS = ("conv_in.weight", "body.13.weight", "conv_mid.weight", "conv_out.weight")


def serialize(weights: Weights, metadata: Mapping[str, str]) -> bytes:
    """Safetensors bytes; the same arguments give the same bytes.

    The library writes the metadata in hash order, which differs between processes, so the header
    is written again here, sorted.
    """
    content = numpy.save(weights, {"config": metadata["config"]})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
