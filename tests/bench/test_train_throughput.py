"""The training benchmark compares equal things, and says what it measured."""

from __future__ import annotations

import json

import pytest
import torch

from bench.train_throughput import main, unmerged
from engine.network import NetworkConfig
from trainer.blocks import BlockConfig, Branches, TrainingNetwork


@pytest.mark.parametrize("branches", ["plain", "rep", "rich"])
def test_the_unmerged_network_computes_the_same(branches: Branches) -> None:
    config, block = NetworkConfig(width=6, body=3), BlockConfig(branches)
    merged, apart = (TrainingNetwork(config, block, 1) for _ in range(2))
    unmerged(apart)
    x = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(apart(x), merged(x), atol=1e-5, rtol=1e-4)


def test_the_last_line_is_the_ratio_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--width", "4", "--batch", "2", "--patch", "16", "--steps", "1", "--threads", "1"]
    assert main(few) == 0
    proof = json.loads(capsys.readouterr().out.splitlines()[-1])
    speeds = proof["lr_megapixels_per_second"]
    assert set(speeds) == {"plain", "merged", "ours"}
    assert proof["ratio"] == pytest.approx(speeds["ours"] / speeds["plain"], rel=0.05)
    assert main([*few, "--require", "1000"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] == "FAIL"
