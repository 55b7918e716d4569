"""``bench/fps.py`` as a person and CI run it, on a CPU and small frames."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from bench.fps_cli import Found, Subject, bottleneck, main, on_tensorrt
from bench.measure import Hasher, Run, distinct_frames, expect, run_pipeline
from bench.proof import schema
from engine.backends.base import Lane, LaneSpec
from engine.backends.cuda_thread import AnyDevice
from engine.backends.nearest import NearestBackend, NearestLane
from engine.backends.tensorrt_runtime import RuntimeName
from engine.errors import BackendUnavailable
from engine.frames import Frame
from engine.models import load_model

ROOT = Path(__file__).parents[2]
SPEC = LaneSpec(32, 32)


def proof_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line = capsys.readouterr().out.splitlines()[-1]
    found: dict[str, Any] = json.loads(line)
    jsonschema.validate(found, schema())
    return found


@pytest.mark.parametrize("form", ["rgb24", "nv12"])
def test_a_cpu_run_proves_itself(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "run.json"
    arguments = ["--model", "fast", "--size", "32x24", "--frames", "12", "--require", "0.01"]
    assert main([*arguments, "--format", form, "--save", str(saved)]) == 0
    found = proof_of(capsys)
    assert (found["backend"], found["model"], found["size"]) == ("onnxruntime", "fast", "32x24")
    assert (found["frames"], found["dropped"], found["psnr_frames"]) == (12, 0, 8)
    assert found["verdict"].startswith("PASS 0.01 fps at 32x24 (the target is 1024x1024)")
    assert {"interval", "latency", "hash"} <= set(found["stages"])
    assert found["fps_file"] is None
    details = json.loads(saved.read_text())["details"]
    assert details["buffering"]["lanes"] == 2
    assert details["precisions"]["fp16_fps"] > 0
    assert "prediction" in details["roofline"]["t4"]["kind"]
    assert json.loads(saved.read_text())["proof"] == found


def test_it_runs_as_a_file_and_ends_with_the_proof() -> None:
    command = [sys.executable, "bench/fps.py", "--backend", "nearest", "--size", "32"]
    result = subprocess.run(
        [*command, "--frames", "8"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    jsonschema.validate(found, schema())
    assert found["command"] == "python bench/fps.py --backend nearest --size 32 --frames 8"
    assert "nearest is no network" in found["verdict"]


def test_a_verdict_of_fail_exits_1_only_when_something_was_required(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--backend", "nearest", "--size", "32", "--frames", "8", "--mode", "engine"]
    assert main(arguments) == 0
    assert main([*arguments, "--require", "1"]) == 1
    assert proof_of(capsys)["verdict"].startswith("FAIL 1 fps")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "0"],
        ["--size", "big"],
        ["--frames", "0"],
        ["--require", "0"],
        ["--require", "nan"],
        ["--size", "2000000"],
        ["--model", "nope"],
        ["--engine", "missing.plan"],
        ["--mode", "file", "--size", "48"],
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--frames", "1", "--size", "32", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1


def test_distinct_frames_are_distinct() -> None:
    hasher = Hasher()
    for spec in (SPEC, LaneSpec(33, 31, "nv12")):
        assert len({hasher(frame) for frame in distinct_frames(spec)}) == 8
    hasher.close()


def test_a_hash_sees_every_sample() -> None:
    hasher = Hasher()
    frame = np.zeros((64, 64, 3), np.uint8)
    before = hasher(frame)
    frame[63, 63, 2] = 1
    assert hasher(frame) != before
    hasher.close()


def test_frames_that_fill_the_pipeline_are_in_no_stage() -> None:
    hasher = Hasher()
    backend = NearestBackend()
    run = run_pipeline(backend, SPEC, expect(backend, SPEC, hasher), 2, 6, hasher)
    assert {stage: len(values) for stage, values in run.stages_ms.items()} == {
        "latency": 6,
        "hash": 6,
        "interval": 6,
    }
    hasher.close()


class ForgetfulLane(NearestLane):
    """Gives the frame before, from the twentieth on."""

    starts = 0
    kept: Frame

    def start(self, frame: Frame) -> None:
        self.starts += 1
        if self.starts < 20:
            self.kept = frame
        super().start(self.kept)


class ForgetfulBackend(NearestBackend):
    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        return [ForgetfulLane(spec) for _ in range(count)]


def test_a_stale_frame_in_the_middle_of_a_run_is_caught() -> None:
    hasher = Hasher()
    backend = ForgetfulBackend()
    expected = expect(backend, SPEC, hasher)
    assert run_pipeline(backend, SPEC, expected, 1, 18, hasher).wrong == []
    assert run_pipeline(backend, SPEC, expected, 1, 24, hasher).wrong != []
    hasher.close()


def run_of(**stages: float) -> Run:
    return Run(1.0, 100, {name: [value] for name, value in stages.items()})


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({"copy_in": 1.0, "compute": 9.5, "copy_out": 4.0}, "compute"),
        ({"copy_in": 1.0, "compute": 4.0, "copy_out": 9.5}, "copy_out"),
        ({"copy_in": 1.0, "compute": 4.0, "copy_out": 2.0}, "host"),
        ({"latency": 20.0, "hash": 1.0}, "compute"),
        ({"latency": 20.0, "hash": 9.0}, "hash"),
    ],
)
def test_the_bottleneck_is_the_stage_that_fills_the_time(
    stages: dict[str, float], expected: str
) -> None:
    assert bottleneck(Found(pipeline=run_of(**stages)), fps=100.0) == expected


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_where_an_fp32_plan_does_not_run_the_details_say_why(name: RuntimeName) -> None:
    def no_gpu() -> AnyDevice:
        raise BackendUnavailable("no GPU here")

    engine = Run(frames=3, seconds=1.0)
    with NearestBackend() as backend:
        subject = Subject(backend, load_model("fast"), SPEC)
        expected = expect(backend, SPEC, Hasher())
        found = on_tensorrt(name, subject, expected, engine, no_gpu)
    assert found["kind"].startswith(f"{name}: FP32 did not run (")
    assert "fp32_fps" not in found
