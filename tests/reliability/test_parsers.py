"""No bytes make one of our own parsers raise what it should not. ``make fuzz`` goes deeper."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reliability.parsers import SEEDS, TARGETS


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A seed of the target with some bytes changed and its end moved."""
    content = bytearray(draw(st.sampled_from(SEEDS[name])) + draw(st.binary(max_size=40)))
    chance = draw(st.randoms(use_true_random=False))
    assert isinstance(chance, random.Random)
    for _ in range(draw(st.integers(0, 6))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content[: draw(st.integers(1, len(content)))])


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_or_refuses_whatever_comes(name: str) -> None:
    @given(st.one_of(st.binary(max_size=200), damaged(name)))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


def test_every_target_has_a_seed_that_it_takes() -> None:
    assert list(SEEDS) == list(TARGETS)
    for name, seeds in SEEDS.items():
        for seed in seeds:
            TARGETS[name](seed)
