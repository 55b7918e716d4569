"""MATLAB's imresize, against its definition written out slowly."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.bicubic import crop_to_multiple, downscale, resize, resize_matrix, upscale
from trainer.metrics import psnr


def keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def slow_axis(line: list[float], scale: Fraction) -> list[float]:
    """One axis by the textbook: sum over all mirrored samples of the widened kernel."""
    count, shrink, out = len(line), min(float(scale), 1.0), []
    for index in range(math.ceil(count * scale)):
        centre = (index + 0.5) / float(scale) - 0.5
        reach = math.ceil(2 / shrink) + 1
        total = weight_sum = 0.0
        for tap in range(math.floor(centre) - reach, math.floor(centre) + reach + 1):
            weight = keys((centre - tap) * shrink)
            folded = tap % (2 * count)
            total += weight * line[folded if folded < count else 2 * count - 1 - folded]
            weight_sum += weight
        out.append(total / weight_sum)
    return out


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=23),
    st.sampled_from([Fraction(1, 4), Fraction(4), Fraction(1, 3), Fraction(3, 2)]),
)
def test_one_axis_equals_the_slow_definition(line: list[int], scale: Fraction) -> None:
    fast = resize_matrix(len(line), scale) @ np.array(line, float)
    np.testing.assert_allclose(fast, slow_axis([float(v) for v in line], scale), atol=1e-9)


@given(st.integers(1, 60), st.sampled_from([Fraction(1, 4), Fraction(4), Fraction(2, 3)]))
@settings(max_examples=30, deadline=None)
def test_rows_sum_to_one_and_the_matrix_is_symmetric_under_mirroring(
    length: int, scale: Fraction
) -> None:
    matrix = resize_matrix(length, scale)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    if (length * scale).denominator == 1:
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


def test_a_picture_is_resized_along_rows_and_columns_and_rounded_once() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    quarter = Fraction(1, 4)
    rows = [
        [slow_axis([float(v) for v in picture[:, x, c]], quarter) for x in range(20)]
        for c in range(3)
    ]
    expected = np.zeros((3, 5, 3))
    for c in range(3):
        for y in range(3):
            expected[y, :, c] = slow_axis([rows[c][x][y] for x in range(20)], quarter)
    rounded = np.floor(expected.clip(0, 255) + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(downscale(picture), rounded)


def test_flat_pictures_stay_flat_and_upscaling_inverts_the_size() -> None:
    flat = np.full((8, 12, 3), 77, np.uint8)
    assert (downscale(flat) == 77).all()
    assert (upscale(downscale(flat)) == flat).all()


def test_downscaling_what_was_upscaled_gives_nearly_the_picture_back() -> None:
    import torch

    ramp = np.add.outer(np.arange(16) * 5, np.arange(16) * 6)[..., None].repeat(3, 2)
    smooth = ramp.astype(np.uint8)
    again = downscale(upscale(smooth))
    a, b = (torch.from_numpy(x).permute(2, 0, 1) for x in (smooth, again))
    assert psnr(a, b, shave=2) > 45


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide by 4"):
        downscale(np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        resize(np.zeros((8, 8, 3)), Fraction(1, 4))  # type: ignore[arg-type]
    assert crop_to_multiple(np.zeros((9, 11, 3), np.uint8), 4).shape == (8, 8, 3)
