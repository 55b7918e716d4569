"""The video degradation: same shape, worse picture, and the same again from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import PictureSet
from trainer.degrade import (
    DegradeConfig,
    DegradedCopies,
    blurred,
    coded_as_picture,
    coded_as_video,
    degrade,
    degraded_validation,
    noised,
)


def textured(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = 127 + 60 * np.sin(x / 2.3) + 60 * np.cos(y / 3.1 + x / 5)
    return np.stack([waves, waves[::-1], 255 - waves], 2).clip(0, 255).astype(np.uint8)


@settings(max_examples=25)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 10**6))
def test_any_size_keeps_its_shape_and_the_seed_decides(height: int, width: int, seed: int) -> None:
    picture = textured(height, width)
    first, second = (degrade(picture, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == picture.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_coding_does_not_depend_on_what_memory_held_before() -> None:
    picture, seen = textured(48, 48), set()
    for fill in range(40):
        rubbish = [np.full(size, fill, np.uint8) for size in (3_000, 9_000, 40_000, 120_000)]
        del rubbish
        seen.add(coded_as_video(picture, 33, (1, 2)).tobytes())
    assert len(seen) == 1


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_more_compression_is_worse_but_still_the_picture() -> None:
    picture = textured(64, 48)
    gentle, harsh = (coded_as_video(picture, crf, (2, -1)) for crf in (18, 40))
    assert error(picture, gentle) < error(picture, harsh) < 40
    good, bad = (coded_as_picture(picture, "JPEG", quality) for quality in (95, 20))
    assert error(picture, good) < error(picture, bad)


@pytest.mark.parametrize("shown", [0, 1, 3])
def test_the_frame_that_is_taken_from_a_panning_clip_is_unmoved(shown: int) -> None:
    picture = textured(48, 48)
    coded = coded_as_video(picture, 15, (3, -4), shown)
    shifts = {(dy, dx): error(np.roll(picture, (dy, dx), (0, 1))[8:-8, 8:-8], coded[8:-8, 8:-8])
              for dy in (-4, -3, 0, 3, 4) for dx in (-4, -3, 0, 3, 4)}  # fmt: skip
    assert min(shifts, key=shifts.__getitem__) == (0, 0)


def test_blur_and_noise_do_what_they_say() -> None:
    picture = textured(64, 64)
    assert float(blurred(picture, 1.5).std()) < 0.9 * float(picture.std())
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert float(noised(grey, 3.0, np.random.default_rng(0)).std()) == pytest.approx(3, rel=0.05)


def test_copies_live_for_a_while_then_change_and_can_be_made_again(pictures: PictureSet) -> None:
    config = DegradeConfig(blur=0.0, noise=1.0)
    copies = DegradedCopies(pictures.train, 7, config, refresh=10)
    first = copies.at(0, 0)
    assert copies.at(0, 9) is first
    later = copies.at(0, 10)
    assert not torch.equal(first, later)
    again = DegradedCopies(pictures.train, 7, config, refresh=10)
    assert torch.equal(again.at(0, 12), later)
    turns = {index for index in range(10) if copies.at(index, 20) is not copies.at(index, 21)}
    assert len(turns) == 1


def test_validation_is_coded_and_always_the_same(pictures: PictureSet) -> None:
    first, second = (
        degraded_validation(pictures.validation),
        degraded_validation(pictures.validation),
    )
    for a, b, original in zip(first, second, pictures.validation, strict=True):
        assert torch.equal(a.lr, b.lr)
        assert torch.equal(a.hr, original.hr)
        assert 0.5 < float((a.lr.float() - original.lr).abs().mean()) < 25
