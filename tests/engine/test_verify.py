"""The gate lets the right backend through and no other."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.backends.nearest import NearestBackend
from engine.backends.onnxruntime import OnnxRuntimeBackend
from engine.errors import ContractError
from engine.frames import Frame
from engine.gate_frames import gate_frames
from engine.models import load_model
from engine.verify import GateReport, run_gate, score
from tests.engine.fakes import FakeBackend, noisy_model

SPEC = LaneSpec(24, 32)


@pytest.mark.parametrize("spec", [SPEC, LaneSpec(100, 120), LaneSpec(7, 9, "nv12")])
def test_there_are_eight_natural_frames_and_the_hostile_ones(spec: LaneSpec) -> None:
    frames = {item.name: item.frame for item in gate_frames(spec)}
    assert sum(name.startswith("natural") for name in frames) == 8
    hostile = {"black", "white", "noise", "rows", "columns", "checkerboard", "gradient"}
    assert hostile <= frames.keys()


def test_the_same_weights_pass_and_progress_is_told() -> None:
    told: list[float] = []
    with OnnxRuntimeBackend(noisy_model(), 1) as backend:
        report = run_gate(
            backend,
            noisy_model(),
            SPEC,
            threads=1,
            on_progress=lambda name, done: told.append(done),
        )
    assert report.passed
    assert told[-1] == 1
    assert told == sorted(told)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"] is True


def test_other_weights_fail() -> None:
    with OnnxRuntimeBackend(noisy_model(seed=1), 1) as backend:
        assert not run_gate(backend, noisy_model(), SPEC, threads=1).passed


def test_repetition_fails_and_the_worst_frame_is_named() -> None:
    model = load_model("fast", allow_untrained=True)
    with NearestBackend() as backend:
        report = run_gate(backend, model, SPEC, threads=1)
    assert not report.passed
    assert not report.worst.passed
    assert report.worst.psnr_db < 50


def test_the_lane_is_closed_when_the_backend_fails() -> None:
    def small(frame: Frame) -> Frame:
        return np.zeros((4, 4, 3), np.uint8)

    backend = FakeBackend(make=small)
    with pytest.raises(
        ContractError, match=r"the backend gave \(4, 4, 3\), expected \(96, 128, 3\)"
    ):
        run_gate(backend, noisy_model(), SPEC, threads=1)
    assert backend.open_count == 0


@pytest.mark.parametrize(
    ("levels", "every", "frame_passed", "report_passed"),
    [
        (0, 1, True, True),
        (1, 6, True, True),
        (1, 3, True, False),  # mean 0.33
        (5, 3600, False, False),  # maximum 5
        (4, 21, False, False),  # mean 0.19, but 49.3 dB
    ],
)
def test_each_limit_counts(
    levels: int, every: int, frame_passed: bool, report_passed: bool
) -> None:
    frame = np.full((30, 40, 3), 100, np.uint8)
    changed = frame.copy()
    changed.reshape(-1)[::every] += levels
    found = score("x", changed, frame)
    assert found.passed is frame_passed
    assert GateReport(FakeBackend().info, SPEC, [found]).passed is report_passed


def test_no_frames_are_no_proof() -> None:
    assert not GateReport(FakeBackend().info, SPEC, []).passed
