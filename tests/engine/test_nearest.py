"""Repetition: the backend that any machine can run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.base import LaneSpec
from engine.backends.nearest import NearestBackend, enlarge
from engine.errors import ContractError, EngineFault
from engine.frames import Bytes, Nv12


def box_down(made: Bytes) -> np.ndarray:
    height, width = made.shape[0] // 4, made.shape[1] // 4
    return made.reshape(height, 4, width, 4, -1).mean((1, 3))


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_enlarging_then_box_down_is_the_identity(height: int, width: int, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    with NearestBackend() as backend:
        lane = backend.open_lanes(LaneSpec(height, width), 1)[0]
        lane.start(frame)
        made = lane.finish()
    assert isinstance(made, np.ndarray)
    np.testing.assert_array_equal(box_down(made), frame)


@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_nv12_of_odd_sizes_becomes_exactly_four_times_larger(height: int, width: int) -> None:
    y = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    uv = np.full(((height + 1) // 2, (width + 1) // 2, 2), 7, np.uint8)
    made = enlarge(Nv12(y, uv))
    assert isinstance(made, Nv12)
    np.testing.assert_array_equal(box_down(made.y)[..., 0], y)
    assert made.uv.shape == (2 * height, 2 * width, 2)


def test_misuse_is_refused() -> None:
    lane = NearestBackend().open_lanes(LaneSpec(4, 4), 1)[0]
    with pytest.raises(EngineFault, match="never started"):
        lane.finish()
    with pytest.raises(ContractError, match="takes rgb24 frames of 4x4, got rgb24 of 5x4"):
        lane.start(np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(ContractError, match=r"rgb24 frame is \(H, W, 3\) uint8, got .* float32"):
        lane.start(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]
