"""Release runs: recipes, time turned into iterations, resuming, scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from engine.models import load_model
from trainer import checkpoint as ckpt
from trainer import release
from trainer.__main__ import main
from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.release import ReleaseConfig, finish_of, fitted, recipe_of, seconds_per_round, steps_in


@pytest.mark.parametrize("name", release.WIDTHS)
def test_every_width_goes_on_from_what_ships(name: str) -> None:
    run = recipe_of(ReleaseConfig(Path("pictures"), device="cpu"), name)
    assert run.start_from is not None
    assert load_model(run.start_from).config == run.network
    assert run.out == Path("runs/release") / name
    assert (run.degradation == "video") == (name == "fast-video")
    fresh = recipe_of(ReleaseConfig(Path("pictures"), fresh=True, device="cpu"), name)
    assert fresh == replace(run, start_from=None)


def test_a_finish_goes_on_from_the_weights_on_any_crops_at_a_lower_rate() -> None:
    run = recipe_of(ReleaseConfig(Path("pictures"), device="cpu", iterations=9_000), "fast")
    finish = finish_of(run)
    assert finish.start_from == run.out / "weights.safetensors"
    assert finish.iterations == 3_000
    assert finish.crop_candidates == 1 < run.crop_candidates
    assert finish.optimiser.learning_rate == run.optimiser.learning_rate / 4
    assert finish.out.parent == run.out


@given(st.floats(1, 1e5), st.floats(1e-3, 10))
def test_the_schedule_fits_the_time(seconds: float, step_seconds: float) -> None:
    steps = steps_in(seconds, step_seconds)
    assert steps >= 100
    assert steps % 100 == 0
    assert steps == 100 or steps * step_seconds <= seconds
    assert (steps + 101) * step_seconds > 0.94 * seconds


def test_a_step_takes_time_and_timing_leaves_nothing(pictures: PictureSet, tmp_path: Path) -> None:
    run = replace(
        recipe_of(ReleaseConfig(tmp_path, device="cpu", out=tmp_path / "out"), "fast"),
        batch=1, patch=8, precision="fp32",
    )  # fmt: skip
    assert 0 < seconds_per_round([run, run], pictures) < 10
    assert not run.out.exists()


def small(config: ReleaseConfig, name: str) -> FitConfig:
    return replace(
        recipe_of(config, name), batch=1, patch=8, crop_candidates=1, precision="fp32",
        evaluate_every=50, checkpoint_every=50,
    )  # fmt: skip


def test_one_command_trains_scores_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(release, "recipe_of", small)
    pictures, out = str(data / "train_small"), tmp_path / "out"
    command = ["release", "--data", pictures, "--names", "fast", "--out", str(out),
               "--benchmarks", pictures, "--device", "cpu"]  # fmt: skip
    main([*command, "--iterations", "3"])
    scores = json.loads((out / "fast" / "scores.json").read_text())
    assert scores[pictures]["ours"]["psnr_y_db"] > scores[pictures]["bicubic"]["psnr_y_db"]
    assert scores["held_out_psnr_y_db"] > 20
    for folder, steps in ((out / "fast", "3"), (out / "fast" / "finish", "1")):
        with safe_open(folder / "weights.safetensors", framework="np") as handle:
            assert handle.metadata()["name"] == "fast"
            assert handle.metadata()["iterations"] == steps
    assert "fast: 3 iterations" in capsys.readouterr().out
    main(command)  # finished: nothing is timed or trained again
    assert "fast: 3 iterations" in capsys.readouterr().out
    config = ReleaseConfig(data, ("fast",), out, device="cpu")
    again = fitted(config, {"fast": small(config, "fast")}, PictureSet([], [], ""))
    assert again["fast"].iterations == 3


def test_a_width_that_has_begun_keeps_its_schedule_beside_one_that_has_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = PictureSet([], [], "")
    monkeypatch.setattr(release, "seconds_per_round", lambda runs, pictures: 0.1)
    begun = ckpt.Checkpoint({"x": torch.zeros(1)}, {"recipe": {"iterations": 3}})
    ckpt.save(begun, tmp_path / "fast" / "checkpoint.safetensors")
    config = ReleaseConfig(data, ("balanced", "fast"), tmp_path, device="cpu")
    both = fitted(config, {name: small(config, name) for name in config.names}, nothing)
    assert both["fast"].iterations == 3
    assert both["balanced"].iterations == steps_in(config.minutes * 60 * 2 * 0.75, 0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--iterations", "0"], "--iterations must be at least 1, got 0"),
        (["--names"], "--names is empty; give some of quality"),
        (["--iterations", "1", "--benchmarks", "no-such"], "no-such is not a folder"),
    ],
)
def test_what_cannot_work_is_said_before_training(
    words: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, out = str(data / "train_small"), tmp_path / "out"
    with pytest.raises(SystemExit) as leave:
        main(["release", "--data", pictures, "--out", str(out), "--device", "cpu", *words])
    assert leave.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_widths_are_trained_together_as_they_would_be_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(release, "recipe_of", small)
    pictures = str(data / "train_small")
    for out, more in ((tmp_path / "alone", []), (tmp_path / "together", ["--together"])):
        main(["release", "--data", pictures, "--names", "balanced", "fast", "--out", str(out),
              "--device", "cpu", "--iterations", "3", *more])  # fmt: skip
    for name in ("balanced", "fast"):
        alone, together = (
            load_file(tmp_path / way / name / "finish" / "weights.safetensors")
            for way in ("alone", "together")
        )
        assert all(torch.equal(together[key], value) for key, value in alone.items())
    assert "balanced: iteration 3" in capsys.readouterr().err


def test_an_unknown_width_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["release", "--data", "x", "--names", "huge"])
    assert leave.value.code == 2
    assert "--names huge is not a width; there are quality, balanced" in capsys.readouterr().err
