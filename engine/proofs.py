"""Proofs of speed kept beside the plans, and the model that they allow on a GPU.

``bench/fps.py`` leaves the proof of every pipeline run on a GPU here. A proof counts only for the
GPU, driver, runtime and weights that made it, so that nothing else can borrow its speed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.cache import write_whole
from engine.contract import MODELS, SCHEMA, FrameFormat
from engine.errors import PlanError
from engine.graph import build_graph
from engine.models import Model, load_model
from engine.plan import sha256_hex

FOLDER = "proofs"
"""In the plan cache."""

REQUIRED_FPS = 60.0
SIZE = "1024x1024"
FORMATS: tuple[FrameFormat, ...] = ("nv12", "rgb24")

SAFE_MODEL = "balanced"
"""What a GPU without any proof gets: the widest that a T4 runs at 60 fps by the roofline with room
to spare."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a proof must have been made on, in the words of ``bench/fps.py``."""

    device: str
    driver: str
    backend: str
    backend_version: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A model and why it was chosen."""

    model: Model
    reason: str


def keep_proof(cache_directory: Path, proof: Mapping[str, Any]) -> Path:
    """Writes a proof into the cache, over an older one of the same run.

    Args:
        cache_directory: of the plans.
        proof: the last line of ``bench/fps.py``.

    Returns:
        where it is.

    Raises:
        PlanError: the cache cannot be written.
    """
    names = ("device", "driver", "backend", "onnx_sha256", "size", "mode")
    subject = json.dumps([proof[name] for name in names] + [proof["versions"]["backend"]])
    path = cache_directory / FOLDER / f"{sha256_hex(subject.encode())[:32]}.json"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(path, json.dumps(proof, indent=1, sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise PlanError(
            f"the proof cannot be kept in {path.parent} ({error.strerror or error}): make room "
            "there or set SR_CACHE_DIR"
        ) from error
    return path


def choose_model(
    cache_directory: Path,
    machine: Machine,
    load: Callable[[str], Model] = lambda name: load_model(name, allow_untrained=True),
) -> Choice:
    """The widest trained model that a proof shows at 60 fps here, else ``balanced``, else ``fast``.

    Args:
        cache_directory: of the plans.
        machine: the GPU at hand.
        load: gives a model by its name.

    Raises:
        ModelError: not even ``fast`` can be loaded.
    """
    proofs = read_proofs(cache_directory, machine)
    models = [load(name) for name in sorted(MODELS, key=MODELS.__getitem__, reverse=True)]
    trained = [model for model in models if model.trained]
    for model in trained:
        if (fps := proved_fps(model, proofs)) >= REQUIRED_FPS:
            return Choice(model, f"{model.name}, {fps:.1f} fps at {SIZE} proved on this GPU")
    safe = next((model for model in trained if model.name == SAFE_MODEL), models[-1])
    return Choice(safe, f"{safe.name}, no width has a proof of {REQUIRED_FPS:g} fps on this GPU")


def proved_fps(model: Model, proofs: Mapping[str, float]) -> float:
    """The best proof of a model's own weights; 0 without one."""
    if not proofs:
        return 0.0  # graphs are not written for nothing
    graphs = [sha256_hex(build_graph(model, form, "fp16")) for form in FORMATS]
    return max(proofs.get(digest, 0.0) for digest in graphs)


def read_proofs(cache_directory: Path, machine: Machine) -> dict[str, float]:
    """sha256 of the ONNX -> frames per second, of the proofs that hold on this machine."""
    found: dict[str, float] = {}
    for path in sorted((cache_directory / FOLDER).glob("*.json")):
        try:
            proof = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # somebody's half of a file proves nothing
        if isinstance(proof, dict) and holds(proof, machine):
            digest = str(proof["onnx_sha256"])
            found[digest] = max(found.get(digest, 0.0), float(proof["fps_pipeline"]))
    return found


def holds(proof: Mapping[str, Any], machine: Machine) -> bool:
    """Whether a proof passed, with a gated plan, and was made on this machine."""
    versions, fps = proof.get("versions"), proof.get("fps_pipeline")
    made_on = (proof.get("device"), proof.get("driver"), proof.get("backend"))
    return (
        proof.get("schema") == SCHEMA
        and isinstance(versions, dict)
        and versions.get("backend") == machine.backend_version
        and made_on == (machine.device, machine.driver, machine.backend)
        and (proof.get("mode"), proof.get("size")) == ("pipeline", SIZE)
        and proof.get("verified") is True
        and str(proof.get("verdict", "")).startswith("PASS")
        and isinstance(proof.get("onnx_sha256"), str)
        and isinstance(fps, (int, float))
    )
