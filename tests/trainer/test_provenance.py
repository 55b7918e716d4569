"""A run says by content what it learnt from, and goes on whatever became of where it began."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from engine.models import MODELS_DIR, load_model
from engine.network import NetworkConfig
from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.errors import CheckpointError, TrainerError
from trainer.loop import Hooks, finish, train
from trainer.provenance import source_digests
from trainer.training import Trainer
from trainer.weights import file_sha256

Small = Callable[..., FitConfig]
CPU = torch.device("cpu")


def few(pictures: PictureSet) -> PictureSet:
    return replace(pictures, train=pictures.train[:2], validation=pictures.validation[:1])


def test_the_header_holds_the_digest_of_what_a_run_began_with_and_was_taught_by(
    small: Small, pictures: PictureSet, tmp_path: Path
) -> None:
    begun = tmp_path / "begun.safetensors"
    shutil.copy(MODELS_DIR / "fast.safetensors", begun)
    config = small(
        network=NetworkConfig(), start_from=begun, ensemble_teacher=Path("fast"), iterations=2
    )
    trainer = Trainer(config, few(pictures), CPU)
    train(trainer, Hooks())
    with safe_open(finish(trainer).weights, framework="np") as handle:
        recipe = json.loads(handle.metadata()["recipe"])
    assert recipe["start_from"] == "begun.safetensors"
    assert recipe["start_from_sha256"] == file_sha256(begun)
    assert recipe["ensemble_teacher_sha256"] == load_model("fast").sha256
    assert "teacher_sha256" not in recipe


def test_a_run_goes_on_when_what_it_began_with_was_replaced_and_keeps_its_digest(
    small: Small, pictures: PictureSet, tmp_path: Path
) -> None:
    begun = tmp_path / "begun.safetensors"
    shutil.copy(MODELS_DIR / "fast.safetensors", begun)
    config = small(network=NetworkConfig(), start_from=begun)
    first = Trainer(config, few(pictures), CPU)
    digest = file_sha256(begun)
    shutil.copy(MODELS_DIR / "fast-video.safetensors", begun)
    second = Trainer(config, few(pictures), CPU)
    assert second.recipe()["start_from_sha256"] != digest
    second.restore(first.state(), Path("here"))
    assert second.recipe()["start_from_sha256"] == digest
    older = first.state()
    recipe = older.facts["recipe"]
    assert isinstance(recipe, dict)
    del recipe["start_from_sha256"]
    second.restore(older, Path("here"))
    assert "start_from_sha256" not in second.recipe()  # what nobody knows is not claimed


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(
    small: Small, pictures: PictureSet, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(MODELS_DIR / "fast.safetensors", teacher)
    config = small(ensemble_teacher=teacher)
    first = Trainer(config, few(pictures), CPU)
    shutil.copy(MODELS_DIR / "fast-video.safetensors", teacher)
    second = Trainer(config, few(pictures), CPU)
    with pytest.raises(CheckpointError, match=r"of another run \(ensemble_teacher_sha256 differ\)"):
        second.restore(first.state(), Path("here"))
    older = first.state()
    recipe = older.facts["recipe"]
    assert isinstance(recipe, dict)
    del recipe["ensemble_teacher_sha256"]
    second.restore(older, Path("here"))  # an older trainer kept the name alone


@pytest.mark.parametrize("setting", ["start_from", "ensemble_teacher", "teacher"])
def test_a_file_that_is_not_there_is_named_with_its_flag(
    setting: str, small: Small, tmp_path: Path
) -> None:
    flag = setting.replace("_", "-")
    config = small(**{setting: tmp_path / "none.pth"})
    with pytest.raises(TrainerError, match=rf"none\.pth cannot be read .*; give another --{flag}$"):
        source_digests(config)


def test_without_files_the_recipe_is_that_of_the_configuration(
    small: Small, pictures: PictureSet
) -> None:
    config = small()
    assert Trainer(config, few(pictures), CPU).recipe() == config.recipe()
