"""Blended targets: their ends, what stays, and that a run says from whom it learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.ensemble_teacher import blend, blended
from trainer.evaluate import enlarge_with
from trainer.training import Trainer
from trainer.weights import load_network

CPU = torch.device("cpu")


@given(st.integers(0, 255), st.integers(0, 255), st.floats(0, 1))
def test_a_blend_lies_between_its_two_pictures(a: int, b: int, share: float) -> None:
    pictures = [torch.full((3, 2, 2), value, dtype=torch.uint8) for value in (a, b)]
    value = int(blend(pictures[0], pictures[1], share)[0, 0, 0])
    assert min(a, b) <= value <= max(a, b)
    assert abs(value - (a + (b - a) * share)) <= 0.5001


def test_all_of_the_teacher_is_its_self_ensemble_and_none_is_the_original(
    pictures: PictureSet,
) -> None:
    some = pictures.train[:2]
    alone = blended(some, Path("fast"), 1.0)
    teacher = enlarge_with([load_network("fast")], self_ensemble=True)
    for taught, pair in zip(alone, some, strict=True):
        assert torch.equal(taught.hr, teacher(pair.lr))
        assert torch.equal(taught.lr, pair.lr)
    untouched = blended(some, Path("fast"), 0.0)
    assert all(torch.equal(a.hr, b.hr) for a, b in zip(untouched, some, strict=True))


def test_a_run_learns_from_blended_targets_and_is_judged_by_originals(
    small: Callable[..., FitConfig], pictures: PictureSet
) -> None:
    taught = Trainer(small(ensemble_teacher=Path("fast")), pictures, CPU)
    plain = Trainer(small(), pictures, CPU)
    assert not torch.equal(taught.pictures.train[0].hr, plain.pictures.train[0].hr)
    assert torch.equal(taught.pictures.validation[0].hr, plain.pictures.validation[0].hr)
    assert taught.config.recipe()["ensemble_teacher"] == "fast"


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="--ensemble-share must be from 0 to 1"):
        FitConfig(Path("x"), ensemble_share=1.5)
