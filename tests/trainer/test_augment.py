"""Augmentation treats LR and HR alike, on whole pixels."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.augment import (
    AUGMENTATIONS,
    Batch,
    augment,
    blend,
    cutblur,
    cutout,
    flips_and_rotations,
    random_boxes,
)
from trainer.config import AugmentConfig

OFF = AugmentConfig(dihedral=0, rgb=0)


def blocks(count: int = 8, side: int = 8, seed: int = 0) -> Batch:
    """LR of random pixels, and HR in which each of them is 4x4 equal ones."""
    lr = torch.randint(0, 256, (count, 3, side, side), generator=generator(seed)).to(torch.uint8)
    return lr, lr.repeat_interleave(4, 2).repeat_interleave(4, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.sampled_from(sorted(AUGMENTATIONS)), st.integers(0, 10**6), st.integers(1, 9))
def test_lr_and_hr_stay_pixel_aligned_whatever_is_done(name: str, seed: int, count: int) -> None:
    lr, hr = AUGMENTATIONS[name](blocks(count, seed=seed), generator(seed))
    assert lr.dtype == hr.dtype == torch.uint8
    assert hr.shape == (count, 3, 32, 32)
    assert torch.equal(lr.repeat_interleave(4, 2).repeat_interleave(4, 3), hr)


def test_every_augmentation_has_its_probability() -> None:
    assert set(AUGMENTATIONS) == {field.name for field in fields(AugmentConfig)}
    batch = blocks()
    for got, given_ in zip(augment(batch, OFF, generator()), batch, strict=True):
        assert torch.equal(got, given_)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_probability_decides_how_many_samples_change(name: str) -> None:
    batch = blocks(400, 4)
    half = AugmentConfig(**{"dihedral": 0.0, "rgb": 0.0, name: 0.5})
    lr, hr = augment(batch, half, generator())
    both = torch.cat([lr.flatten(1), hr.flatten(1)], 1)
    before = torch.cat([batch[0].flatten(1), batch[1].flatten(1)], 1)
    changed = int((both != before).any(1).sum())
    # Point-sampled blocks are the blocks themselves, so CutBlur has nothing to change here.
    assert changed == 0 if name == "cutblur" else 120 < changed < 240


def test_all_eight_moves_occur_and_only_those() -> None:
    lr, hr = blocks(8, 6)
    same = lr[:1].expand(8, -1, -1, -1), hr[:1].expand(8, -1, -1, -1)
    moved, _ = flips_and_rotations(same, generator())
    expected = [torch.rot90(x, k, (1, 2)) for x in (lr[0], lr[0].flip(2)) for k in range(4)]
    found = [[torch.equal(m, e) for e in expected].index(True) for m in moved]
    assert sorted(found) == list(range(8))


def test_cutblur_shows_sharp_pixels_inside_one_box_and_keeps_hr() -> None:
    lr, _ = blocks(4, 12)
    hr = torch.randint(0, 256, (4, 3, 48, 48), generator=generator(5)).to(torch.uint8)
    cut, kept = cutblur((lr, hr), generator(1))
    assert torch.equal(kept, hr)
    inside = (cut != lr).any(1)
    sharp = hr[:, :, 2::4, 2::4]
    assert torch.equal(cut[:, 0][inside], sharp[:, 0][inside])
    assert 0.03 < float(inside.float().mean()) < 0.6


def test_cutout_is_black_in_a_box_of_both() -> None:
    lr, hr = (x.clamp(min=1) for x in blocks(4, 12))
    cut, cut_hr = cutout((lr, hr), generator(2))
    black = cut == 0
    assert torch.equal(cut_hr == 0, black.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert black[:, 0].flatten(1).any(1).all()


def test_blend_keeps_most_of_the_sample() -> None:
    lr, hr = blocks(16, 8)
    mixed, _ = blend((lr, hr), generator(3))
    assert float(mixed.float().std()) > 0.55 * float(lr.float().std())
    assert not torch.equal(mixed, lr)


@given(st.integers(4, 30), st.integers(0, 999))
def test_boxes_are_rectangles_of_a_quarter_to_three_quarters(side: int, seed: int) -> None:
    masks = random_boxes(torch.zeros(3, 3, side, side), generator(seed))[:, 0]
    for mask in masks:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum())
        assert side * 0.25 - 1 <= int(rows.sum()) <= side * 0.75 + 1


def test_a_probability_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--augment\.mixup must be from 0 to 1"):
        AugmentConfig(mixup=1.5)
