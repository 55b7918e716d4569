"""Matrices against the numbers of the standards, and nv12 there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.colour import colour_map
from engine.errors import ContractError
from engine.gate_frames import to_nv12, to_rgb24

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


@pytest.mark.parametrize(
    ("matrix", "full_range", "colour", "samples"),
    [
        ("bt601", False, RED, (81, 90, 240)),
        ("bt601", False, BLUE, (41, 240, 110)),
        ("bt709", False, RED, (63, 102, 240)),
        ("bt709", False, BLUE, (32, 240, 118)),
        ("bt2020", False, RED, (74, 97, 240)),
        ("bt601", True, RED, (76, 85, 255)),
        ("bt709", False, WHITE, (235, 128, 128)),
        ("bt709", True, WHITE, (255, 128, 128)),
        ("bt709", False, BLACK, (16, 128, 128)),
    ],
)
def test_primaries_have_the_samples_of_the_standard(
    matrix: str, full_range: bool, colour: tuple[int, int, int], samples: tuple[int, int, int]
) -> None:
    colours = colour_map(matrix, full_range)
    found = colours.from_rgb @ (np.array(colour) / 255) + colours.offset
    assert np.abs(np.minimum(found, 255) - samples).max() <= 0.51


@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    matrix=st.sampled_from(["bt601", "bt709", "bt2020"]),
    full_range=st.booleans(),
)
def test_nv12_and_back_keeps_the_colour(
    colour: tuple[int, int, int], height: int, width: int, matrix: str, full_range: bool
) -> None:
    frame = np.full((height, width, 3), colour, np.uint8)
    back = to_rgb24(to_nv12(frame, matrix, full_range), matrix, full_range)
    assert np.abs(back.astype(int) - frame).max() <= 3


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(ContractError, match="unknown colour matrix 'rec709': use one of bt601"):
        colour_map("rec709", False)
