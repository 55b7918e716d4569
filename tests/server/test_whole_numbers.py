"""Numbers in headers and queries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.whole_numbers import MOST, whole_number


@given(st.integers(0, MOST))
def test_digits_are_their_number(number: int) -> None:
    assert whole_number(str(number)) == whole_number(f"00{number}") == number


@pytest.mark.parametrize("text", [None, "", "-1", "+1", "1.0", "²", "٣", "1\n", " 1", "0x1", "1_0"])
def test_anything_else_is_no_number(text: str | None) -> None:
    assert whole_number(text) is None


def test_a_number_of_any_length_is_the_most() -> None:
    assert whole_number("9" * 19) == whole_number("9" * 10_000) == MOST
