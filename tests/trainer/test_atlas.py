"""Batches cut from one block of memory are those that are cut crop by crop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.contract import SCALE
from trainer.atlas import Atlas, source_grid
from trainer.augment import flips_and_rotations
from trainer.data import Pair
from trainer.evaluate import moved
from trainer.sampling import Cropping, draw, sample_batch


def some_pairs(generator: torch.Generator) -> list[Pair]:
    """Three pictures of different sizes whose HR is the LR repeated, marked at every pixel."""
    pairs = []
    for height, width in ((9, 14), (20, 8), (11, 11)):
        lr = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        hr = lr.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
        hr = hr ^ torch.randint(0, 2, hr.shape, dtype=torch.uint8, generator=generator)
        pairs.append(Pair("a", hr, lr))
    return pairs


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 8), st.integers(1, 3))
def test_a_batch_is_that_of_sampling_and_turning(
    seed: int, batch: int, patch: int, candidates: int
) -> None:
    pairs = some_pairs(torch.Generator().manual_seed(seed))
    cropping = Cropping(batch, patch, candidates)
    generator = torch.Generator().manual_seed(seed)
    expected = flips_and_rotations(sample_batch(pairs, cropping, generator), generator)
    generator = torch.Generator().manual_seed(seed)
    draws = draw(len(pairs), cropping, generator)
    first = int(torch.randint(8, (1,), generator=generator))
    sizes = [len(part) for part in torch.arange(batch).tensor_split(8)]
    moves = [(first + part) % 8 for part, size in enumerate(sizes) for _ in range(size)]
    lr, hr = Atlas(pairs).batch(draws, torch.tensor(moves), cropping)
    assert torch.equal(lr, expected[0])
    assert torch.equal(hr, expected[1])
    assert lr.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("move", range(8))
def test_a_move_takes_its_pixels_where_they_lay(move: int) -> None:
    picture = torch.arange(25).view(5, 5)
    rows, columns = source_grid(torch.tensor([move]), 5)
    assert torch.equal(picture[rows[0], columns[0]], moved(picture, move))
