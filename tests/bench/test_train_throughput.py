"""The training benchmark compares equal things, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import train_throughput
from bench.train_throughput import Options, main, report, unmerged
from engine.network import NetworkConfig
from trainer.blocks import BlockConfig, Branches, TrainingNetwork


@pytest.mark.parametrize("branches", ["plain", "rep", "rich", "edge"])
def test_the_unmerged_network_computes_the_same(branches: Branches) -> None:
    config, block = NetworkConfig(width=6, body=3), BlockConfig(branches)
    merged, apart = (TrainingNetwork(config, block, 1) for _ in range(2))
    unmerged(apart)
    x = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(apart(x), merged(x), atol=1e-5, rtol=1e-4)


FEW = ["--width", "4", "--batch", "2", "--patch", "16", "--steps", "1", "--threads", "1"]


def test_the_last_line_is_the_ratio_as_json_and_save_keeps_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "folder" / "run.json"
    assert main([*FEW, "--save", str(saved)]) == 0
    printed = capsys.readouterr().out
    proof = json.loads(printed.splitlines()[-1])
    assert json.loads(saved.read_text()) == proof
    assert "LR megapixels/s" in printed
    speeds = proof["lr_megapixels_per_second"]
    assert set(speeds) == {"plain", "merged", "ours"}
    assert proof["ratio"] == pytest.approx(speeds["ours"] / speeds["plain"], rel=0.05)
    assert proof["machine"].endswith("(1 threads)")
    assert proof["versions"]["torch"] == torch.__version__


def test_the_report_compares_what_was_measured_and_says_of_what() -> None:
    speeds = {"plain": 0.5, "merged": 1.0, "ours": 1.25}
    found = report(Options(branches="edge", save=Path("here")), speeds)
    assert (found["ratio"], found["ratio_merged"], found["verdict"]) == (2.5, 2.0, "PASS")
    assert found["config"]["data"] == "tests/data/train_small"
    assert found["config"]["branches"] == "edge"
    assert "save" not in found["config"]
    assert report(Options(require=2.5), speeds)["verdict"] == "PASS"
    assert report(Options(require=2.51), speeds)["verdict"] == "FAIL"
    assert report(Options(data=Path("/elsewhere/mine")), speeds)["config"]["data"] == "mine"


def test_a_ratio_below_what_is_required_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"plain": 1.0, "merged": 1.0, "ours": 1.5}
    monkeypatch.setattr(train_throughput, "measure", lambda options: speeds)
    assert main([*FEW, "--require", "1.5"]) == 0
    assert main([*FEW, "--require", "1.6"]) == 1


def test_files_that_are_no_good_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main([*FEW, "--data", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    speeds = dict.fromkeys(("plain", "merged", "ours"), 1.0)
    monkeypatch.setattr(train_throughput, "measure", lambda options: speeds)
    (tmp_path / "file").touch()
    assert main([*FEW, "--save", str(tmp_path / "file" / "run.json")]) == 2
    assert "--save" in capsys.readouterr().err


@pytest.mark.timeout(300)  # a process that imports torch, on a machine that may be busy
def test_it_runs_as_a_file_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, train_throughput.__file__, "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--save" in shown.stdout
