"""The rules of tests/conftest.py, tried on a small suite of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

@pytest.mark.skip(reason="no")
def test_plain(): pass

@pytest.mark.gpu
def test_gpu(): pytest.skip("no CUDA device")

@pytest.mark.trt_gpu
def test_trt(): pytest.skip("no TensorRT")

@pytest.mark.xfail(strict=True)
def test_known_bug(): assert False
"""


@pytest.mark.parametrize(
    ("environment", "exit_code", "skipped"),
    [({}, 0, 3), ({"SR_TEST_STRICT": "1"}, 1, 2), ({"SR_TEST_GPU": "1"}, 1, 2)],
)
def test_only_expected_skips_are_tolerated(
    tmp_path: Path, environment: dict[str, str], exit_code: int, skipped: int
) -> None:
    (tmp_path / "conftest.py").write_text(Path("tests/conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: x\n    trt_gpu: x\n")
    (tmp_path / "test_small.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert f"{skipped} skipped" in run.stdout
    assert "1 xfailed" in run.stdout
    assert run.returncode == exit_code
