"""One thread, small networks, and the bundled pictures as a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.network import NetworkConfig
from trainer.config import FitConfig, OptimiserConfig
from trainer.data import PictureSet, load_folder

PICTURES = Path(__file__).parents[1] / "data" / "train_small"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pictures() -> PictureSet:
    """Ten pictures to train on and two to choose by."""
    return load_folder(PICTURES, 16, 2)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., FitConfig]:
    """Makes the configuration of a run that takes about a second."""
    base = FitConfig(
        data=PICTURES,
        out=tmp_path / "run",
        network=NetworkConfig(width=8, body=4),
        optimiser=OptimiserConfig(warmup_iterations=3),
        iterations=12,
        batch=4,
        patch=16,
        evaluate_every=6,
        checkpoint_every=5,
        precision="fp32",
        device="cpu",
    )
    return lambda **changes: replace(base, **changes)
