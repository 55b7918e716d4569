"""The work of a model comes from its weights and agrees with its configuration."""

from __future__ import annotations

import pytest

from bench.roofline import Machine, cpu_machine, reached, t4_prediction, work_of
from engine.contract import MODELS
from engine.models import load_model


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_two_per_multiply_accumulate_of_the_configuration(name: str) -> None:
    model = load_model(name, allow_untrained=True)
    work = work_of(model, 10, 20, "rgb24", 2)
    assert work.flops == 2 * 200 * model.config.macs_per_pixel


def test_bytes_are_those_of_the_frames() -> None:
    model = load_model("fast", allow_untrained=True)
    rgb24, nv12 = (work_of(model, 1024, 1024, form, 2) for form in ("rgb24", "nv12"))  # type: ignore[arg-type]
    assert (rgb24.bytes_in, rgb24.bytes_out) == (3 << 20, 48 << 20)
    assert (nv12.bytes_in, nv12.bytes_out) == (3 << 19, 24 << 20)
    assert nv12.flops < rgb24.flops
    assert nv12.activation_bytes < rgb24.activation_bytes


def test_a_prediction_says_that_it_is_one_and_falls_with_width() -> None:
    predictions = [
        t4_prediction(work_of(load_model(name, allow_untrained=True), 1024, 1024, "nv12", 2))
        for name in MODELS
    ]
    assert all("prediction, not measured" in str(found["kind"]) for found in predictions)
    speeds = [float(found["fps_engine"]) for found in predictions]
    assert speeds == sorted(speeds, reverse=True)
    assert all(
        float(found["fps_pipeline"]) <= speed
        for found, speed in zip(predictions, speeds, strict=True)
    )


def test_the_fraction_reached_is_work_times_frames_over_rate() -> None:
    work = work_of(load_model("fast", allow_untrained=True), 64, 64, "rgb24", 4)
    found = reached(work, Machine(work.flops * 100, work.activation_bytes * 50, "known"), fps=10)
    assert found == {"matrix_rate": 0.1, "copy_bandwidth": 0.2}
    assert reached(work, Machine(None, None, "unknown"), fps=10) == {}


def test_this_machine_has_rates() -> None:
    found = cpu_machine(side=64)
    assert found.flops
    assert found.flops > 0
    assert found.copy_bytes
    assert found.copy_bytes > 0
