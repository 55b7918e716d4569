"""Two processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.device import Share
from trainer.errors import TrainerError
from trainer.loop import Hooks, fit
from trainer.training import Trainer

WORKER = Path(__file__).with_name("ddp_worker.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)  # three processes that import torch, on a machine that may be busy
def test_two_processes_have_the_loss_curve_of_one(
    small: Callable[..., FitConfig], pictures: PictureSet, tmp_path: Path
) -> None:
    config = small(iterations=8, evaluate_every=4)
    alone: list[float] = []
    result = fit(config, pictures, Hooks(on_step=lambda step, row: alone.append(row["loss"])))
    together = tmp_path / "together"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(WORKER), str(config.data), str(together)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=350
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == pytest.approx(alone, rel=1e-4)
    ours, theirs = load_file(result.weights), load_file(together / "weights.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=2e-4, rtol=1e-2)


def test_shares_of_a_batch_are_equal_and_together_all_of_it() -> None:
    batch = torch.arange(12)
    parts = [Share(rank, 3).of(batch) for rank in range(3)]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert torch.equal(torch.cat(parts), batch)


def test_a_batch_that_does_not_divide_is_refused(
    small: Callable[..., FitConfig], pictures: PictureSet
) -> None:
    with pytest.raises(TrainerError, match="--batch 4 does not divide by 3 processes"):
        Trainer(small(), pictures, torch.device("cpu"), Share(0, 3))
