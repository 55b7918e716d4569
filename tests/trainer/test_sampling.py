"""Crops: aligned, reproducible, and rather busy ones when that is asked for."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.contract import SCALE
from trainer.data import Pair, PictureSet
from trainer.sampling import Cropping, busyness, sample_batch


def test_crops_are_aligned(pictures: PictureSet) -> None:
    generator = torch.Generator().manual_seed(0)
    lr, hr = sample_batch(pictures.train, Cropping(8, 16), generator)
    assert lr.shape == (8, 3, 16, 16)
    assert hr.shape == (8, 3, 64, 64)
    box = torch.nn.functional.avg_pool2d(hr.float(), 4)
    assert float((box - lr).abs().mean()) < 6
    assert float((box.roll(4, 3) - lr).abs().mean()) > 6


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_of_more_candidates_some_are_taken_and_they_stay_aligned(
    batch: int, candidates: int, seed: int
) -> None:
    lr = torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8)
    pair = Pair("a", lr.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2), lr)
    generator = torch.Generator().manual_seed(seed)
    low, high = sample_batch([pair], Cropping(batch, 8, candidates), generator)
    assert low.shape == (batch, 3, 8, 8)
    assert torch.equal(high[:, :, ::SCALE, ::SCALE], low)


def test_busy_crops_are_likelier_and_dull_ones_do_not_vanish() -> None:
    dull = torch.full((3, 16, 16), 90, dtype=torch.uint8)
    busy = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    pairs = [Pair(n, x.repeat(1, SCALE, SCALE), x) for n, x in (("d", dull), ("b", busy))]
    generator = torch.Generator().manual_seed(0)

    def share_of_busy(candidates: int) -> float:
        crops, _ = sample_batch(pairs, Cropping(200, 16, candidates), generator)
        return float((busyness(crops) > 1).float().mean())

    assert 0.4 < share_of_busy(1) < 0.6
    assert 0.6 < share_of_busy(3) < 1.0


def test_copies_of_the_low_resolution_are_cut_at_the_same_place(pictures: PictureSet) -> None:
    inverted = [255 - pair.lr for pair in pictures.train]
    draws = [
        sample_batch(pictures.train, Cropping(4, 16, 2), torch.Generator().manual_seed(3), lr_of)
        for lr_of in (None, inverted.__getitem__)
    ]
    # The steps between neighbours are those of the picture itself, so the same crops are taken.
    assert torch.equal(draws[0][0], 255 - draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])
