"""Training steps as CUDA graphs do what ordinary steps do, and not more slowly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engine.network import NetworkConfig  # noqa: E402  (needs PyTorch)
from trainer.blocks import BlockConfig  # noqa: E402
from trainer.captured_trainer import trainer_for  # noqa: E402
from trainer.config import AugmentConfig, FitConfig, OptimiserConfig  # noqa: E402
from trainer.data import load_folder  # noqa: E402
from trainer.loop import fit  # noqa: E402

pytestmark = pytest.mark.gpu

PICTURES = Path(__file__).parents[1] / "data" / "train_small"


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., FitConfig]:
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    base = FitConfig(
        data=PICTURES,
        out=tmp_path / "run",
        network=NetworkConfig(width=16),
        block=BlockConfig(branches="plain", weight_norm=False),
        optimiser=OptimiserConfig(
            method="soap", betas=(0.95, 0.95), lookahead_steps=0, warmup_iterations=5
        ),
        augment=AugmentConfig(rgb=0.0),
        iterations=60,
        batch=8,
        patch=16,
        crop_candidates=2,
        losses=("l1", "mse"),
        stages=(0.5, 0.5),
        evaluate_every=30,
        checkpoint_every=30,
        device="cuda",
        precision="fp32",
    )
    return lambda **changes: replace(base, **changes)


@pytest.mark.parametrize("branches", ["plain", "rich", "edge"])
@pytest.mark.parametrize("method", ["soap", "radam"])
def test_a_captured_step_does_what_an_ordinary_step_does(  # type: ignore[no-untyped-def]
    small: Callable[..., FitConfig], branches: str, method: str
) -> None:
    pictures = load_folder(PICTURES, 16, 2)
    losses: dict[bool, list[float]] = {}
    for capture in (False, True):
        block = BlockConfig(branches=branches, weight_norm=branches != "plain")  # type: ignore[arg-type]
        config = small(block=block, capture=capture, checkpoint_every=1)
        config = replace(config, optimiser=replace(config.optimiser, method=method))  # type: ignore[arg-type]
        trainer = trainer_for(config, pictures, torch.device("cuda"))
        losses[capture] = [trainer.train_step() for _ in range(40)]
        assert trainer.validate() > 10
    assert losses[True][:5] == pytest.approx(losses[False][:5], rel=0.02)
    assert losses[True][29:] == pytest.approx(losses[False][29:], rel=0.25)


def test_a_captured_run_learns_and_goes_on_where_it_stopped(
    small: Callable[..., FitConfig],
) -> None:
    pictures = load_folder(PICTURES, 16, 2)
    whole = fit(small(capture=True, precision="auto"), pictures)
    assert whole.history[-1]["psnr_y_db"] > whole.history[0]["psnr_y_db"]
    config = small(capture=True, precision="auto")
    trainer = trainer_for(config, pictures, torch.device("cuda"))
    from trainer import checkpoint as ckpt

    trainer.restore(ckpt.load(whole.checkpoint), whole.checkpoint)
    assert trainer.step == 60
    assert trainer.validate() == pytest.approx(whole.validation_psnr_y_db, abs=0.01)
