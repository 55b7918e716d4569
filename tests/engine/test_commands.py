"""``sr-engine``: what a person sees and what a script reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.__main__ import main


def test_export_writes_files_that_info_describes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "fast", "--out", str(tmp_path), "--format", "rgb24"]) == 0
    assert "differences from PyTorch FP32" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "fast.rgb24.fp32.onnx"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "rgb24"
    assert main(["info", "fast", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)
    assert facts["weights_sha256"] == model["weights_sha256"]
    assert model["macs_per_pixel"] == 9 * (3 * 16 + 15 * 16 * 16 + 16 * 48)


def test_info_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "quality"]) == 0
    printed = capsys.readouterr().out
    assert "153488" in printed
    assert "weights_sha256" in printed


def test_verify_passes_fp16_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--model", "fast", "--size", "40x24", "--format", "nv12"]) == 0
    printed = capsys.readouterr().out
    assert "PASS" in printed
    assert "checkerboard" in printed


def test_verify_fails_repetition(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backend", "nearest", "--size", "32x32", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert {"psnr_db", "max_difference", "mean_difference"} <= report["frames"][0].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nope"], "'nope' is not a model"),
        (["info", "nope.onnx"], "cannot read 'nope.onnx'"),
        (["verify", "--size", "10"], "size must look like 1024x768, got '10'"),
        (["verify", "--size", "0x8"], "size must look like"),
        (["export", "tests/data", "--out", "build"], "'tests/data' is not a model"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_onnx_that_breaks_the_contract_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"hello")
    assert main(["info", str(path)]) == 2
    assert "not a valid ONNX file" in capsys.readouterr().err
