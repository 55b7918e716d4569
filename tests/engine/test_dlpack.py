"""Memory by address, checked with two libraries that know nothing of ours: NumPy and PyAV."""

from __future__ import annotations

import gc
import sys

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device import DeviceNv12, why_not
from engine.dlpack import CPU, Plane, plane_of
from engine.errors import ContractError


def plane(array: np.ndarray, samples: int = 1) -> Plane:
    """A whole array of bytes as a plane."""
    rows, row_bytes = array.shape[0], array[0].size
    return Plane(array.ctypes.data, rows, row_bytes, array.strides[0], samples, (CPU, 0), array)


@settings(max_examples=30)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), gap=st.integers(0, 5))
def test_numpy_sees_the_bytes_of_a_plane_and_a_plane_those_of_numpy(
    rows: int, columns: int, gap: int
) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (rows, columns + gap), np.uint8)
    given_away = plane(wide[:, :columns])
    np.testing.assert_array_equal(np.from_dlpack(given_away), wide[:, :columns])
    taken = plane_of(wide[:, :columns])
    assert (taken.address, taken.shape) == (wide.ctypes.data, (rows, columns))
    assert rows == 1 or taken.pitch == columns + gap


def test_interleaved_chroma_has_three_dimensions() -> None:
    chroma = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    np.testing.assert_array_equal(np.from_dlpack(plane(chroma, samples=2)), chroma)
    assert plane_of(chroma).shape == (3, 4, 2)


def test_memory_lives_until_the_last_who_took_it() -> None:
    owner = np.zeros((2, 3), np.uint8)
    given_away = plane(owner)
    before = sys.getrefcount(given_away)
    given_away.__dlpack__()  # never taken
    taken = [np.from_dlpack(given_away) for _ in range(50)]
    assert sys.getrefcount(given_away) == before + 50
    taken.clear()
    gc.collect()
    assert sys.getrefcount(given_away) == before


def test_a_frame_of_pyav_becomes_ours_and_ours_becomes_one_of_pyav_without_a_copy() -> None:
    theirs = av.VideoFrame(32, 16, "nv12")
    ours = DeviceNv12.of(*theirs.planes)
    assert (ours.y.shape, ours.uv.shape) == ((16, 32), (8, 16, 2))
    back = av.VideoFrame.from_dlpack((ours.y, ours.uv), format="nv12")
    assert back.planes[0].buffer_ptr == theirs.planes[0].buffer_ptr == ours.y.address
    del theirs
    gc.collect()
    assert bytes(back.planes[1])  # its memory is still there


def test_what_is_no_plane_of_bytes_is_refused() -> None:
    with pytest.raises(ContractError, match="rows of bytes"):
        plane_of(np.zeros((2, 2), np.float32))
    with pytest.raises(ContractError, match="rows of bytes"):
        plane_of(np.zeros((2, 4), np.uint8)[:, ::2])
    with pytest.raises(BufferError, match="not copied"):
        plane(np.zeros((2, 2), np.uint8)).__dlpack__(copy=True)


@pytest.mark.parametrize(
    ("luma", "chroma"), [((16, 31), (8, 16, 2)), ((16, 32), (8, 15, 2)), ((15, 32), (8, 16, 2))]
)
def test_planes_that_make_no_frame_are_refused(
    luma: tuple[int, ...], chroma: tuple[int, ...]
) -> None:
    with pytest.raises(ContractError, match="a frame on a device"):
        DeviceNv12.of(np.zeros(luma, np.uint8), np.zeros(chroma, np.uint8))


@pytest.mark.parametrize(
    ("height", "width", "form", "words"),
    [
        (1024, 1024, "nv12", ""),
        (1080, 1920, "nv12", ""),
        (1024, 1024, "rgb24", "rgb24 frames"),
        (480, 854, "nv12", "854x480 frames are not a multiple of 16"),
        (1023, 1024, "nv12", "1024x1023"),
    ],
)
def test_which_frames_can_stay_on_a_device(height: int, width: int, form: str, words: str) -> None:
    found = why_not(height, width, form)
    assert found.startswith(words) if words else not found
