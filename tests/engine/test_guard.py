"""The guard: silent on honest results, loud on faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.backends.nearest import enlarge
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.errors import EngineFault
from engine.frames import Bytes, Frame, Nv12
from engine.gate_frames import gate_frames, natural_frames
from engine.guard import MAX_DEVIATION, SAMPLED_ROWS, check_result, deviation
from engine.models import load_model
from engine.upscaler import Upscaler


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    backend = OnnxRuntimeBackend(load_model("fast", allow_untrained=True), 1)
    with Upscaler(backend, guard=False) as opened:
        yield opened


@pytest.mark.parametrize("spec", [LaneSpec(96, 96), LaneSpec(43, 70), LaneSpec(64, 48, "nv12")])
def test_honest_results_raise_no_alarm(upscaler: Upscaler, spec: LaneSpec) -> None:
    found = {
        item.name: deviation(item.frame, upscaler.upscale(item.frame)) for item in gate_frames(spec)
    }
    assert max(found.values()) < MAX_DEVIATION * 0.75, found


def shuffled(made: Bytes) -> Bytes:
    rows, columns = made.shape[0] // 8, made.shape[1] // 8
    tiles = (
        made.reshape(8, rows, 8, columns, 3).transpose(0, 2, 1, 3, 4).reshape(64, rows, columns, 3)
    )
    mixed = tiles[np.random.default_rng(0).permutation(64)]
    return mixed.reshape(8, 8, rows, columns, 3).transpose(0, 2, 1, 3, 4).reshape(made.shape)


def half_missing(made: Bytes) -> Bytes:
    broken = made.copy()
    broken[made.shape[0] // 2 :] = 0
    return broken


FAULTS: dict[str, Callable[[Bytes], Bytes]] = {
    "zeros, or NaN turned into zeros": np.zeros_like,
    "white": lambda made: np.full_like(made, 255),
    "the lower half missing": half_missing,
    "tiles in the wrong places": shuffled,
    "moved sideways by four pixels": lambda made: np.roll(made, 16, axis=1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught_on_every_natural_frame(upscaler: Upscaler, fault: str) -> None:
    for _, frame in natural_frames(96, 96):
        if frame.std() < 20:
            continue  # flat: nothing to recognise
        made = upscaler.upscale(frame)
        assert isinstance(made, np.ndarray)
        with pytest.raises(EngineFault, match="does not resemble"):
            check_result(frame, FAULTS[fault](made))


def test_a_stale_frame_is_caught(upscaler: Upscaler) -> None:
    frames = [frame for _, frame in natural_frames(96, 96)]
    made = [upscaler.upscale(frame) for frame in frames]
    for index, frame in enumerate(frames):
        with pytest.raises(EngineFault, match="does not resemble"):
            check_result(frame, made[index - 1])


def test_the_luma_of_nv12_is_guarded(upscaler: Upscaler) -> None:
    for item in list(gate_frames(LaneSpec(96, 96, "nv12")))[:6]:
        assert isinstance(item.frame, Nv12)
        broken: Frame = enlarge(item.frame)
        assert isinstance(broken, Nv12)
        check_result(item.frame, broken)
        broken.y[:] = 0
        with pytest.raises(EngineFault, match="does not resemble"):
            check_result(item.frame, broken)


def test_every_row_has_its_turn() -> None:
    height = 4 * SAMPLED_ROWS
    frame = np.full((height, 8, 3), 100, np.uint8)
    made = enlarge(frame)
    assert isinstance(made, np.ndarray)
    made[4 * 101 : 4 * 102] = 0
    assert sum(deviation(frame, made, turn) > 0 for turn in range(4)) == 1


def test_tiny_frames_are_let_through() -> None:
    check_result(np.full((1, 1, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8))
