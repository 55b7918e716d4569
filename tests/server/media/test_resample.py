from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.resample import area_resize, target_size


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 1, 2, 3]))
def test_whole_factors_give_the_mean_of_each_block(
    factor: int, height: int, width: int, channels: int
) -> None:
    shape = (height * factor, width * factor, *([channels] if channels else []))
    picture = np.random.default_rng(height).integers(0, 256, shape, np.uint8)
    small = area_resize(picture, height, width)
    blocks = picture.reshape(height, factor, width, factor, -1).mean(axis=(1, 3), dtype=np.float64)
    assert small.shape == (height, width, *shape[2:])
    assert np.abs(small.reshape(height, width, -1) - blocks).max() <= 0.75


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_any_factor_is_within_a_grey_level_of_the_mean(height: int, width: int, goal: int) -> None:
    rows = np.random.default_rng(height).integers(0, 256, (height, 1), np.uint8)
    picture = np.repeat(rows, width, axis=1)
    goal = min(goal, height)
    edges = np.linspace(0, height, goal + 1)
    filled = np.concatenate([[0], np.cumsum(rows[:, 0], dtype=np.float64)])
    means = np.diff(np.interp(edges, np.arange(height + 1), filled)) / (height / goal)
    small = area_resize(picture, goal, width)
    assert np.abs(small - means[:, None]).max() <= 1.0


def test_a_flat_picture_stays_flat_at_any_size() -> None:
    picture = np.full((97, 61, 3), (200, 3, 77), np.uint8)
    small = area_resize(picture, 40, 33)
    assert (small == (200, 3, 77)).all()


def test_the_size_asked_for_keeps_the_shape_and_never_exceeds_four_times() -> None:
    assert target_size(4320, 7680, wanted_height=2160, wanted_size=None) == (2160, 3840)
    assert target_size(400, 300, wanted_height=None, wanted_size=(100, 50)) == (50, 100)
    assert target_size(400, 300, wanted_height=None, wanted_size=None) == (400, 300)
    for height, size in ((401, None), (0, None), (None, (301, 10)), (None, (0, 5))):
        with pytest.raises(ValueError, match="size"):
            target_size(400, 300, wanted_height=height, wanted_size=size)
