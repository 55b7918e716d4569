"""What ``--model auto`` means on a GPU: decided by proofs that are made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.proof import schema
from engine.cache import PlanCache
from engine.contract import MODELS
from engine.errors import PlanError
from engine.graph import build_graph
from engine.models import Model
from engine.plan import sha256_hex
from engine.proofs import FOLDER, Machine, choose_model, holds, keep_proof, proved_fps, read_proofs
from tests.engine.fakes import noisy_model

HERE = Machine("Tesla T4", "13.0", "tensorrt", "11.4.0.106")
FAMILY = {
    name: replace(noisy_model(width=5 + place), name=name, trained=True)
    for place, name in enumerate(MODELS)
}


def proof_of(model: Model, fps: float = 71.5, **changes: Any) -> dict[str, Any]:
    """What ``bench/fps.py`` would have printed."""
    proof = {
        "schema": 1,
        "device": HERE.device,
        "driver": HERE.driver,
        "versions": {"python": "3.11.7", "numpy": "2.4.6", "backend": HERE.backend_version},
        "backend": HERE.backend,
        "model": model.name,
        "trained": True,
        "verified": True,
        "onnx_sha256": sha256_hex(build_graph(model, "nv12", "fp16")),
        "plan_sha256": "a" * 64,
        "size": "1024x1024",
        "format": "nv12",
        "mode": "pipeline",
        "frames": 600,
        "dropped": 0,
        "stages": {"interval": {"p50_ms": 14.0, "p95_ms": 15.0, "p99_ms": 16.0}},
        "fps_engine": fps,
        "fps_pipeline": fps,
        "fps_file": None,
        "psnr_db": 60.0,
        "psnr_frames": 8,
        "verdict": f"PASS 60 fps at 1024x1024: {fps} fps",
        "bottleneck": "compute",
        "git_commit": "",
        "command": "python bench/fps.py",
        **changes,
    }
    jsonschema.validate(proof, schema())
    return proof


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return PlanCache.open(tmp_path / "plans").directory


def chosen(cache: Path, **family: Model) -> tuple[str, str]:
    models = FAMILY | family
    choice = choose_model(cache, HERE, models.__getitem__)
    return choice.model.name, choice.reason


def test_without_a_proof_it_is_balanced_and_says_so(cache: Path) -> None:
    name, reason = chosen(cache)
    assert (name, reason) == (
        "balanced",
        "balanced, no width has a proof of 60 fps on this GPU",
    )


def test_the_widest_with_a_proof_wins(cache: Path) -> None:
    keep_proof(cache, proof_of(FAMILY["fast"], 150.0))
    assert chosen(cache)[0] == "fast"
    keep_proof(cache, proof_of(FAMILY["quality"], 61.25))
    keep_proof(cache, proof_of(FAMILY["balanced"], 100.0))
    assert chosen(cache) == ("quality", "quality, 61.2 fps at 1024x1024 proved on this GPU")


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "NVIDIA L4"},
        {"driver": "12.8"},
        {"backend": "tensorrt_rtx"},
        {"versions": {"python": "3.11.7", "numpy": "2.4.6", "backend": "11.5.0.1"}},
        {"mode": "engine"},
        {"size": "512x512"},
        {"verified": False},
        {"verdict": "FAIL 60 fps at 1024x1024: 3 of 600 frames dropped"},
        {"fps_pipeline": 59.9},
        {"fps_pipeline": None},
        {"onnx_sha256": "b" * 64},  # other weights under the same name
    ],
    ids=str,
)
def test_a_proof_of_anything_else_counts_for_nothing(changes: dict[str, Any], cache: Path) -> None:
    keep_proof(cache, proof_of(FAMILY["quality"], **changes))
    assert chosen(cache)[0] == "balanced"


def test_an_untrained_width_is_never_chosen(cache: Path) -> None:
    untrained = replace(FAMILY["quality"], trained=False)
    keep_proof(cache, proof_of(untrained))
    assert chosen(cache, quality=untrained)[0] == "balanced"
    no_balanced = replace(FAMILY["balanced"], trained=False)
    assert chosen(cache, quality=untrained, balanced=no_balanced)[0] == "fast"


def test_both_formats_prove_a_model_and_a_newer_run_replaces_an_older_one(cache: Path) -> None:
    rgb = sha256_hex(build_graph(FAMILY["quality"], "rgb24", "fp16"))
    for fps in (90.0, 65.0):
        keep_proof(cache, proof_of(FAMILY["quality"], fps, format="rgb24", onnx_sha256=rgb))
    assert read_proofs(cache, HERE) == {rgb: 65.0}
    assert proved_fps(FAMILY["quality"], {rgb: 65.0}) == 65.0


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 1}', "\xff"])
def test_a_damaged_proof_is_no_proof(content: str, cache: Path) -> None:
    (cache / FOLDER).mkdir()
    (cache / FOLDER / "x.json").write_bytes(content.encode("latin-1"))
    assert read_proofs(cache, HERE) == {}
    assert not holds({}, HERE)


def test_a_proof_that_cannot_be_kept_is_one_sentence(cache: Path) -> None:
    (cache / FOLDER).write_text("a file where the folder should be")
    with pytest.raises(PlanError, match="cannot be kept"):
        keep_proof(cache, proof_of(FAMILY["fast"]))


def test_a_kept_proof_is_what_was_printed(cache: Path) -> None:
    proof = proof_of(FAMILY["fast"])
    assert json.loads(keep_proof(cache, proof).read_text()) == proof
