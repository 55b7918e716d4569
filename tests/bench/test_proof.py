"""A verdict says what was asked, at which size, and why it fails."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import jsonschema
import pytest

from bench.proof import Claim, Proof, percentiles, schema, verdict

GOOD = Claim(
    required_fps=60,
    fps=71.24,
    size=(1024, 1024),
    frames=600,
    dropped=0,
    interval_p99_ms=20.0,
    wrong="",
)

PROOF = Proof(
    device="Tesla T4",
    driver="13.0",
    versions={"python": "3.12.3", "numpy": "2.4.6", "backend": "1.7.1.116"},
    backend="tensorrt_rtx",
    model="fast",
    trained=True,
    verified=True,
    onnx_sha256="0" * 64,
    plan_sha256="1" * 64,
    size="1024x1024",
    format="nv12",
    mode="pipeline",
    frames=600,
    dropped=0,
    stages={"interval": percentiles([10.0, 11.0])},
    fps_engine=90.0,
    fps_pipeline=71.24,
    fps_file=None,
    psnr_db=58.1,
    psnr_frames=8,
    verdict=verdict(GOOD),
    bottleneck="compute",
    git_commit="abc",
    command="python bench/fps.py",
)


def test_the_target_is_claimed_only_with_everything_it_needs() -> None:
    assert verdict(GOOD) == "PASS 60 fps at 1024x1024: 71.2 fps"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fps": 59.9}, "59.90 fps"),
        ({"dropped": 3}, "3 of 600 frames dropped"),
        ({"interval_p99_ms": 33.4}, "p99 between frames 33.4 ms > 33.3 ms"),
        ({"frames": 599}, "only 599 frames, 600 are needed"),
        ({"wrong": "PSNR 12.0 dB"}, "PSNR 12.0 dB"),
    ],
)
def test_one_shortcoming_is_enough_to_fail(change: dict[str, object], says: str) -> None:
    found = verdict(replace(GOOD, **change))  # type: ignore[arg-type]
    assert found.startswith("FAIL 60 fps at 1024x1024: ")
    assert says in found


def test_a_wrong_engine_fails_however_fast_it_is() -> None:
    assert verdict(replace(GOOD, fps=1e6, wrong="8 outputs differ")).startswith("FAIL")


def test_another_size_says_so() -> None:
    found = verdict(replace(GOOD, size=(256, 512), required_fps=1, frames=20))
    assert found.startswith("PASS 1 fps at 512x256 (the target is 1024x1024)")


def test_the_json_has_exactly_the_fields_of_the_schema_and_is_valid() -> None:
    line = PROOF.to_line()
    jsonschema.validate(json.loads(line), schema())
    assert "\n" not in line
    assert line.startswith('{"schema":1,')
    assert (
        {f.name for f in fields(Proof)} == set(schema()["properties"]) == set(schema()["required"])
    )


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "MAYBE"},
        {"backend": "cuda"},
        {"frames": 0},
        {"fps_pipeline": 0},
        {"onnx_sha256": "xyz"},
        {"stages": {}},
        {"stages": {"interval": {"p50_ms": 1.0}}},
        {"surprise": 1},
    ],
)
def test_the_schema_refuses_what_is_no_proof(change: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(PROOF.to_line()), **change}, schema())


def test_a_proof_cannot_hold_what_json_cannot() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(PROOF, psnr_db=float("inf")).to_line()


def test_percentiles_are_in_order() -> None:
    found = percentiles(range(1, 101))
    assert found == {"p50_ms": 50.5, "p95_ms": 95.05, "p99_ms": 99.01}
