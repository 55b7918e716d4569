"""Run by ``torchrun`` in a test: a few steps, whose losses the first process prints as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from engine.network import NetworkConfig
from trainer.config import FitConfig, OptimiserConfig
from trainer.data import load_folder
from trainer.loop import Hooks, fit

torch.set_num_threads(1)
data, out = Path(sys.argv[1]), Path(sys.argv[2])
config = FitConfig(
    data=data,
    out=out,
    network=NetworkConfig(width=8, body=4),
    optimiser=OptimiserConfig(warmup_iterations=3),
    iterations=8,
    batch=4,
    patch=16,
    evaluate_every=4,
    precision="fp32",
    device="cpu",
)
losses: list[float] = []
fit(config, load_folder(data, 16, 2), Hooks(on_step=lambda step, row: losses.append(row["loss"])))
if losses:
    print(json.dumps(losses))
