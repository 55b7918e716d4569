"""Strips keep every row once and change nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.frames import Nv12
from engine.gate_frames import natural_frames, to_nv12
from engine.strips import plan_strips
from engine.upscaler import Upscaler
from tests.engine.fakes import noisy_model


@given(
    height=st.integers(1, 500),
    width=st.integers(1, 100),
    halo=st.integers(0, 20),
    limit=st.integers(1, 20_000),
)
def test_strips_keep_every_row_once_with_its_halo(
    height: int, width: int, halo: int, limit: int
) -> None:
    strips = plan_strips(height, width, halo, limit)
    kept = [row for strip in strips for row in range(strip.keep_from, strip.keep_to)]
    assert kept == list(range(height))
    assert len({strip.rows for strip in strips}) == 1
    assert strips[0].rows * width <= max(limit + 3 * width, (2 * halo + 7) * width)
    for strip in strips:
        end = strip.start + strip.rows
        assert strip.start % 4 == 0
        assert strip.start == 0 or strip.keep_from - strip.start >= halo
        assert end == height or (end < height and end - strip.keep_to >= halo)


@settings(max_examples=20)
@given(
    height=st.integers(20, 95),
    width=st.integers(3, 40),
    rows=st.integers(1, 60),
    skip=st.sampled_from([0, 2]),
    nv12=st.booleans(),
)
def test_strips_equal_the_whole_frame(
    height: int, width: int, rows: int, skip: int, nv12: bool
) -> None:
    model = noisy_model(seed=height, body=4, skip_every=skip, scale=0.7)
    pixels = list(natural_frames(height, width))[rows % 8][1]
    frame = to_nv12(pixels) if nv12 else pixels
    backend = OnnxRuntimeBackend(model, 1)
    with Upscaler(backend, guard=False) as whole:
        expected = whole.upscale(frame)
        stripped = Upscaler(backend, guard=False, max_pixels=rows * width)
        found = stripped.upscale(frame)
    for a, b in zip(_planes(found), _planes(expected), strict=True):
        difference = np.abs(a.astype(np.int16) - b)
        assert difference.max() <= 1
        # One in a million allowed: none in a picture of this size.
        assert np.count_nonzero(difference) == 0


def _planes(frame: np.ndarray | Nv12) -> list[np.ndarray]:
    return [frame.y, frame.uv] if isinstance(frame, Nv12) else [frame]
