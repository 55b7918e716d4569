"""The hand-off to ``engine``: a safetensors file of plain convolutions with its provenance."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.models import load_model
from engine.network import Network
from trainer.checkpoint import write_atomically


def weights_header(network: Network, name: str, provenance: dict[str, str]) -> dict[str, str]:
    """The safetensors metadata of a weights file: configuration and where it came from."""
    return {
        "config": json.dumps(network.config.to_dict(), sort_keys=True),
        "name": name,
        "trained": "true",
        **provenance,
    }


def save_weights(network: Network, path: Path, name: str, provenance: dict[str, str]) -> None:
    """Writes ``network`` (plain, fused) to ``path`` atomically.

    ``provenance`` holds ``dataset_sha256``, ``checkpoint_sha256`` and ``recipe`` (JSON).
    """
    tensors = {k: v.detach().float().cpu() for k, v in network.state_dict().items()}
    write_atomically(tensors, weights_header(network, name, provenance), path)


def load_network(name_or_path: str) -> Network:
    """The network of a weights file or of a shipped name, on the CPU in float32.

    Raises:
        engine.errors.ModelError: missing, damaged or untrained.
    """
    from engine.export import load_network as build  # brings ONNX, which fit never needs

    return build(load_model(name_or_path))


def is_weights_file(path: Path) -> bool:
    """True for plain weights, False for a checkpoint or anything else."""
    return "config" in _header(path)


def is_checkpoint(path: Path) -> bool:
    """True for a checkpoint, False for plain weights or anything else."""
    return "facts" in _header(path)


def _header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; nothing of another file, or of none."""
    try:
        with safe_open(path, framework="pt") as handle:
            return dict(handle.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
