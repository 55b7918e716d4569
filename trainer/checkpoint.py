"""The state of a run on disk: one safetensors file, replaced atomically, resumed exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainer.errors import CheckpointError, TrainerError
from trainer.files import replace_file

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name and JSON-able facts (``step``, ``recipe``, ``dataset_sha256``, history)."""

    tensors: dict[str, Tensor]
    facts: dict[str, object]


def write_atomically(tensors: dict[str, Tensor], header: dict[str, str], path: Path) -> None:
    """Writes a safetensors file beside ``path``, fsyncs it and renames it over ``path``.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; ``path`` is as it was.
    """
    content = save_tensors({k: t.contiguous() for k, t in tensors.items()}, header)
    try:
        replace_file(path, content)
    except TrainerError as error:
        raise CheckpointError(str(error)) from error


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Replaces ``path`` by ``checkpoint``."""
    facts = {"schema": SCHEMA, **checkpoint.facts}
    write_atomically(checkpoint.tensors, {"facts": json.dumps(facts, sort_keys=True)}, path)


def load(path: Path, remedy: str = "remove it to start afresh") -> Checkpoint:
    """Reads what :func:`save` wrote.

    Args:
        remedy: what the user can do about another file, for the message.

    Raises:
        CheckpointError: it is not that.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            facts = json.loads((handle.metadata() or {})["facts"])
            tensors = {name: handle.get_tensor(name) for name in list(handle.keys())}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this trainer ({error}); {remedy}"
        ) from error
    if facts.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {facts.get('schema')}, this trainer reads {SCHEMA}; {remedy}"
        )
    return Checkpoint(tensors, facts)
