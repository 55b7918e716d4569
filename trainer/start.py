"""Where a run begins when not from random weights: those of a file, or of another run's checkpoint.

A checkpoint is read by its own recipe and brought into the training form of this run: what was
trained on plain kernels goes on with branches and weight normalisation, and the other way round.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from engine.models import NAMES
from engine.network import Network, NetworkConfig
from trainer import checkpoint as ckpt
from trainer.blocks import BlockConfig, TrainingNetwork, adopt, fuse
from trainer.errors import CheckpointError
from trainer.weights import is_checkpoint, is_weights_file, load_network


@torch.no_grad()
def start(network: TrainingNetwork, path: Path) -> None:
    """Gives ``network`` the outputs of the weights or of the averaged weights of a checkpoint.

    Of a checkpoint of the same training form every branch is taken as it is.

    Raises:
        CheckpointError, ModelError: unreadable or of another shape.
    """
    there = load_network(str(path)) if is_weights_file(path) else averaged_in(path)
    if there.config != network.config:
        raise CheckpointError(
            f"{path} holds a network of another shape; give {flags_between(network, there)}"
        )
    if isinstance(there, TrainingNetwork) and there.block == network.block:
        network.load_state_dict(there.state_dict())
        return
    adopt(network, fuse(there) if isinstance(there, TrainingNetwork) else there)


def network_of(name_or_path: str) -> Network:
    """The plain network of a shipped name, of weights, or of a checkpoint's moving average.

    Raises:
        CheckpointError, ModelError: missing, damaged or untrained.
    """
    path = Path(name_or_path)
    if name_or_path in NAMES or not is_checkpoint(path):
        return load_network(name_or_path)
    return fuse(averaged_in(path))


def averaged_in(path: Path) -> TrainingNetwork:
    """:func:`averaged` of the checkpoint in ``path``."""
    return averaged(ckpt.load(path, "give another checkpoint, or weights"), path)


@torch.no_grad()
def averaged(saved: ckpt.Checkpoint, path: Path) -> TrainingNetwork:
    """The moving average in a checkpoint of any recipe, in the training form that it was saved in.

    Raises:
        CheckpointError: the checkpoint does not hold what its recipe says.
    """
    recipe: Any = saved.facts.get("recipe")
    try:
        shape = NetworkConfig(**recipe["network"])
        network = TrainingNetwork(shape, BlockConfig(**recipe["block"]))
        values = [saved.tensors[f"average.{i}"] for i, _ in enumerate(network.parameters())]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(_unlike(path)) from error
    for value, parameter in zip(values, network.parameters(), strict=True):
        if value.shape != parameter.shape:
            raise CheckpointError(_unlike(path))
        parameter.copy_(value)
    return network


def flags_between(here: Network, there: Network) -> str:
    """The flags of ``sr-train fit`` that give a network like ``here`` the shape of ``there``."""
    own = asdict(here.config)
    return " ".join(
        f"--network.{name.replace('_', '-')} {value}"
        for name, value in asdict(there.config).items()
        if value != own[name]
    )


def _unlike(path: Path) -> str:
    return (
        f"{path} does not hold the network that its recipe describes; give --start-from another "
        "checkpoint, or weights"
    )
