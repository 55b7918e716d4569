"""What goes into a captured step; the graph itself is tested on a GPU (tests/gpu)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from trainer import captured_trainer
from trainer.captured import CapturedSteps, GraphInputs, LossOf, _Graph, check_capturable
from trainer.captured_trainer import CapturedTrainer, trainer_for
from trainer.config import AugmentConfig, FitConfig, Method, OptimiserConfig
from trainer.data import PictureSet
from trainer.errors import TrainerError
from trainer.training import Trainer, step_generator

Small = Callable[..., FitConfig]
CPU = torch.device("cpu")
GPU = torch.device("cuda")


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("dihedral", [0.0, 1.0])
def test_the_batch_is_the_one_of_an_ordinary_step(
    small: Small, pictures: PictureSet, candidates: int, dihedral: float
) -> None:
    augment = AugmentConfig(dihedral=dihedral, rgb=0.0)
    config = small(crop_candidates=candidates, augment=augment)
    trainer = Trainer(config, pictures, CPU)
    inputs = GraphInputs(pictures, config, CPU)
    for step in range(3):
        trainer.step = step
        lr, hr = trainer.next_batch()
        inputs.draw(step_generator(config.seed, step))
        got = inputs.batch()
        assert torch.equal(got[0], lr)
        assert torch.equal(got[1], hr)


class Rerun:
    """What a CUDA graph does, done again: the numbers end where the captured ones were."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work


class OnHost(CapturedSteps):
    """Captured steps without a GPU; like a capture, making one changes no parameter."""

    def _capture(self, loss_of: LossOf, afterwards: Callable[[], object] | None) -> _Graph:
        loss, batch = self._pass(loss_of)
        gradients = [p.grad for p in self._parameters if p.grad is not None]

        def replay() -> None:
            again, _ = self._pass(loss_of)
            loss.copy_(again)
            for place, parameter in zip(gradients, self._parameters, strict=True):
                assert parameter.grad is not None
                place.copy_(parameter.grad)
                parameter.grad = place
            if afterwards is not None:
                afterwards()

        return _Graph(Rerun(replay), loss, batch, gradients)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["soap", "radam"])
def test_captured_steps_train_like_ordinary_ones(
    small: Small, pictures: PictureSet, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_trainer, "check_capturable", lambda *_: None)
    optimiser = OptimiserConfig(method=method, lookahead_steps=0, warmup_iterations=3)
    config = small(
        augment=AugmentConfig(rgb=0.0), optimiser=optimiser, iterations=30, checkpoint_every=1
    )
    losses, weights = [], []
    for capture in (False, True):
        trainer = trainer_for(replace(config, capture=capture), pictures, CPU)
        if isinstance(trainer, CapturedTrainer):
            trainer.captured = OnHost(trainer.network, GraphInputs(pictures, config, CPU))
        losses.append([trainer.train_step() for _ in range(30)])
        weights.append(torch.cat([w.flatten() for w in trainer.shipped_weights()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-3, rtol=1e-2)
    assert losses[0][-1] < losses[0][0]


def test_what_a_graph_cannot_hold_is_refused_by_name(small: Small) -> None:
    plain = small(augment=AugmentConfig(rgb=0.0), capture=True)
    check_capturable(plain, GPU)
    check_capturable(replace(plain, augment=AugmentConfig(dihedral=0.0, rgb=0.0)), GPU)
    for word, config in {
        "--degradation video": replace(plain, degradation="video"),
        "--augment.rgb": replace(plain, augment=AugmentConfig()),
        "--augment.dihedral": replace(plain, augment=AugmentConfig(dihedral=0.5, rgb=0.0)),
        "--compile": replace(plain, compile=True),
        "--precision fp16": replace(plain, precision="fp16"),
    }.items():
        with pytest.raises(TrainerError, match=word):
            check_capturable(config, GPU)
    with pytest.raises(TrainerError, match="several processes"):
        check_capturable(plain, GPU, 2)


def test_without_a_gpu_there_is_no_graph(small: Small, pictures: PictureSet) -> None:
    config = small(augment=AugmentConfig(rgb=0.0), capture=True)
    with pytest.raises(TrainerError, match="--device cpu"):
        trainer_for(config, pictures, CPU)
    assert type(trainer_for(replace(config, capture=False), pictures, CPU)) is Trainer
