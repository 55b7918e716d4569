"""The README's speeds are those of ``bench/results``, and say what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.table import BEGIN, END, README, ROOT, main, table, with_table

MEASURED = json.loads((ROOT / "bench/results/cpu-1024-rgb24.json").read_text())


def rows(folder: Path, **changes: Any) -> tuple[list[str], list[str]]:
    """(rows measured, rows predicted) for one result with changes in its proof."""
    result = {**MEASURED, "proof": {**MEASURED["proof"], **changes}}
    (folder / "gpu").mkdir(exist_ok=True)
    (folder / "gpu" / "one.json").write_text(json.dumps(result))
    (folder / "other.json").write_text("[1]")
    first, _, second = table(folder).partition("\n\n")
    return first.splitlines()[2:], second.splitlines()[2:]


def test_the_committed_table_is_the_one_that_the_results_make(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_a_speed_stands_beside_its_correctness_and_its_proof(tmp_path: Path) -> None:
    (right,), _ = rows(tmp_path, psnr_db=57.31, fps_pipeline=71.24)
    assert "| 71.2 |" in right
    assert "| 57.3 dB | [one](bench/results/gpu/one.json) |" in right
    (wrong,), _ = rows(tmp_path, verified=False, psnr_db=12.0)
    assert "| **no** |" in wrong


def test_a_prediction_never_stands_among_the_measurements(tmp_path: Path) -> None:
    measured, (prediction,) = rows(tmp_path)
    assert "T4" not in "".join(measured)
    assert "never run" in prediction
    assert "roofline of 24 TFLOP/s" in prediction


def test_only_frames_of_the_target_are_predicted(tmp_path: Path) -> None:
    assert rows(tmp_path, size="256x256")[1] == []


def test_what_stands_around_the_table_is_kept() -> None:
    once = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="needs the lines"):
        with_table(README.read_text().replace(END, ""), "new")
