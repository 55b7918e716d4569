"""A run: it learns, resumes exactly, refuses the wrong state and stops when it diverges."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.models import load_model
from engine.network import NetworkConfig
from trainer import checkpoint as ckpt
from trainer.__main__ import main
from trainer.blocks import BlockConfig
from trainer.config import AugmentConfig, FitConfig, OptimiserConfig
from trainer.data import PictureSet
from trainer.distill import distillation
from trainer.errors import CheckpointError, DivergedError, Interrupted, TrainerError
from trainer.loop import Hooks, fit
from trainer.training import Trainer

Small = Callable[..., FitConfig]
CPU = torch.device("cpu")


def weights_of(path: Path) -> torch.Tensor:
    return torch.cat([t.flatten() for _, t in sorted(load_file(path).items())])


def test_training_learns_and_leaves_weights_that_the_engine_reads(
    small: Small, pictures: PictureSet
) -> None:
    config = small(iterations=40, optimiser=OptimiserConfig(warmup_iterations=3, ema_decay=0.8))
    result = fit(config, pictures)
    first, last = result.history[0], result.history[-1]
    assert last["psnr_y_db"] > first["psnr_y_db"] + 2
    model = load_model(result.weights)
    assert model.trained
    assert model.config == config.network
    assert model.metadata["dataset_sha256"] == pictures.sha256
    assert '"width": 8' in model.metadata["recipe"]


def test_a_run_that_was_stopped_ends_where_the_uninterrupted_one_does(
    small: Small, pictures: PictureSet, tmp_path: Path
) -> None:
    whole = fit(small(degradation="video"), pictures)
    config = small(out=tmp_path / "stopped", degradation="video")
    steps: list[int] = []
    hooks = Hooks(on_step=lambda step, row: steps.append(step), stop=lambda: len(steps) == 6)
    with pytest.raises(Interrupted, match="stopped at iteration 7"):
        fit(config, pictures, hooks)
    resumed: list[int] = []
    again = fit(config, pictures, Hooks(on_resume=resumed.append))
    assert resumed == [7]
    assert torch.equal(weights_of(whole.weights), weights_of(again.weights))


KILLED = """
import os, signal, sys
from pathlib import Path
from trainer.__main__ import main
import trainer.training
real = trainer.training.learning_rate
def at_eight(step, *rest):
    if step >= 8: os.kill(os.getpid(), signal.SIGKILL)
    return real(step, *rest)
trainer.training.learning_rate = at_eight
main(sys.argv[1:])
"""


def flags(config: FitConfig) -> list[str]:
    return [
        "fit",
        *("--data", str(config.data), "--out", str(config.out), "--network.width", "8"),
        *("--network.body", "4", "--iterations", "12", "--batch", "4", "--patch", "16"),
        *("--evaluate-every", "6", "--checkpoint-every", "5", "--precision", "fp32"),
        *("--device", "cpu", "--optimiser.warmup-iterations", "3", "--validation-pictures", "2"),
    ]


@pytest.mark.timeout(300)  # a process that imports torch, on a machine that may be busy
def test_the_command_goes_on_after_kill_minus_9(
    small: Small, pictures: PictureSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fit(small(), pictures)
    config = small(out=tmp_path / "killed")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, *flags(config)]
    dead = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert ckpt.load(config.out / "checkpoint.safetensors").facts["step"] == 5
    main([*flags(config), "--no-html"])
    assert "going on from iteration 5" in capsys.readouterr().err
    again = weights_of(config.out / "weights.safetensors")
    assert torch.equal(weights_of(whole.weights), again)


def test_divergence_stops_with_the_step_and_keeps_the_batch(
    small: Small, pictures: PictureSet
) -> None:
    config = small()
    trainer = Trainer(config, pictures, CPU)
    trainer.train_step()
    with torch.no_grad():
        trainer.network.conv_out.bias.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(DivergedError, match="at iteration 1 "):
        trainer.train_step()
    assert load_file(config.out / "diverged.safetensors")["lr"].shape == (4, 3, 16, 16)


def test_a_checkpoint_of_another_run_is_refused(small: Small, pictures: PictureSet) -> None:
    fit(small(), pictures)
    with pytest.raises(CheckpointError, match=r"network\.width differ"):
        fit(small(network=NetworkConfig(width=6, body=4)), pictures)
    with pytest.raises(CheckpointError, match="the pictures differ"):
        fit(small(), replace(pictures, sha256="0" * 64))


def test_a_checkpoint_of_an_older_trainer_is_read_with_todays_defaults(
    small: Small, pictures: PictureSet
) -> None:
    trainer = Trainer(small(), pictures, CPU)
    saved = trainer.state()
    recipe = saved.facts["recipe"]
    assert isinstance(recipe, dict)
    for added in ("augment", "degradation", "start_from", "teacher", "teacher_weight"):
        del recipe[added]
    trainer.restore(saved, Path("old"))
    other = Trainer(small(augment=AugmentConfig(mixup=0.5)), pictures, CPU)
    with pytest.raises(CheckpointError, match=r"augment\.mixup differ"):
        other.restore(saved, Path("old"))


def test_a_damaged_checkpoint_is_named(small: Small, pictures: PictureSet) -> None:
    config = small()
    config.out.mkdir()
    (config.out / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="is not a checkpoint of this trainer"):
        fit(config, pictures)


def test_a_run_can_start_from_the_weights_of_another(
    small: Small, pictures: PictureSet, tmp_path: Path
) -> None:
    first = fit(small(), pictures)
    config = small(out=tmp_path / "second", start_from=first.checkpoint)
    trainer = Trainer(config, pictures, CPU)
    assert trainer.validate() == pytest.approx(first.validation_psnr_y_db)
    from_weights = Trainer(replace(config, start_from=first.weights), pictures, CPU)
    assert from_weights.validate() == pytest.approx(first.validation_psnr_y_db, abs=1e-3)
    other = replace(config, network=NetworkConfig(width=6, body=4), start_from=first.weights)
    for source in (first.weights, first.checkpoint):
        with pytest.raises(CheckpointError, match=r"another shape; give --network\.width 8$"):
            Trainer(replace(other, start_from=source), pictures, CPU)
    rich = Trainer(replace(config, block=BlockConfig(branches="rich")), pictures, CPU)
    assert rich.validate() == pytest.approx(first.validation_psnr_y_db, abs=1e-3)


def test_half_precision_trains_and_keeps_its_loss_scale(small: Small, pictures: PictureSet) -> None:
    trainer = Trainer(small(precision="fp16"), pictures, CPU)
    plain = Trainer(small(), pictures, CPU)
    losses = [(trainer.train_step(), plain.train_step()) for _ in range(4)]
    assert all(abs(a - b) < 0.02 for a, b in losses)
    other = Trainer(small(precision="fp16"), pictures, CPU)
    other.restore(trainer.state(), Path("here"))
    assert other.scaler.state_dict() == trainer.scaler.state_dict()


def test_a_teacher_pulls_the_output_towards_its_own(small: Small, pictures: PictureSet) -> None:
    def white(lr: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(lr), 3, lr.shape[2] * 4, lr.shape[3] * 4)

    def brightness(**changes: object) -> float:
        optimiser = OptimiserConfig(warmup_iterations=1, learning_rate=3e-3)
        config = small(teacher_weight=9.0, iterations=25, optimiser=optimiser)
        trainer = Trainer(config, pictures, CPU, **changes)  # type: ignore[arg-type]
        for _ in range(25):
            trainer.train_step()
        with torch.no_grad():
            return float(trainer.network(torch.full((1, 3, 16, 16), 0.3)).mean())

    assert brightness(teacher=white) > brightness() + 0.02
    with pytest.raises(TrainerError, match="choose a x4 network"):
        distillation(torch.ones(1, 3, 8, 8), torch.ones(1, 3, 2, 2), lambda lr: lr, 1.0)
