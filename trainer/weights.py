"""The hand-off to ``engine``: a safetensors file of plain convolutions with its provenance."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

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


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_finite(network: torch.nn.Module) -> bool:
    """True when no weight is NaN or infinite."""
    return all(bool(torch.isfinite(p).all()) for p in network.parameters())
