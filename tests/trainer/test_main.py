"""The command line: results, one-sentence errors and exit codes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer import checkpoint as ckpt
from trainer.__main__ import main
from trainer.config import FitConfig
from trainer.console import StopOnSignal, watching
from trainer.data import PictureSet
from trainer.loop import fit

TINY = ["--network.width", "8", "--network.body", "2", "--patch", "16", "--batch", "2",
        "--device", "cpu", "--precision", "fp32", "--no-html"]  # fmt: skip


def run(*arguments: object) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def test_fit_then_evaluate(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    few = ["--iterations", 4, "--checkpoint-every", 2, "--evaluate-every", 2]
    assert run("fit", "--data", data / "train_small", "--out", out, *TINY, *few) == 0
    said = capsys.readouterr()
    assert "weights.safetensors: PSNR-Y" in said.out
    assert "iteration 4: loss" in said.err
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert {"loss", "learning_rate", "validation/psnr_y_db"} == set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["validation/output and HR"]
    answer = tmp_path / "scores.json"
    weights = out / "weights.safetensors"
    pictures = ["--data", data / "train_small", "--json", answer, "--tta"]
    assert run("evaluate", weights, *pictures) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert result == json.loads(answer.read_text())
    assert set(result["mean"]) == {"bicubic", str(weights), "x8"}
    assert len(result["pictures"]) == 12
    assert "PSNR-Y" in said.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fit", "--data", "nowhere"], "sr-train: nowhere is not a folder"),
        (["fit", "--data", "x", "--stages", "0.5", "0.4"], "--stages must add up to 1, got 0.9"),
        (["fit", "--data", "x", "--augment.mixup", "2"], "--augment.mixup must be from 0 to 1"),
        (["evaluate", "fast"], "give weights, and pictures with --data"),
        (["evaluate", "no.safetensors", "--data", "x"], "cannot read the weights"),
        (["fit"], "--data"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert sentence in " ".join(said.err.split())
    assert "Traceback" not in said.err


def test_a_run_of_another_width_is_refused_with_exit_code_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_ = ["fit", "--data", data / "train_small", "--out", tmp_path, *TINY, "--iterations", 2]
    assert run(*fit_) == 0
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    assert run(*fit_, "--network.width", 6) == 2
    assert "network.width differ" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it; a job started in the background may have it switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_saves_a_checkpoint_and_exits_130(
    small: Callable[..., FitConfig], pictures: PictureSet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(iterations=10_000, evaluate_every=10_000, checkpoint_every=10_000)
    arguments = ["fit", "--data", config.data, "--out", config.out, *TINY]
    before = signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is not before:  # training has begun to listen
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.kill(os.getpid(), signal.SIGINT)

    # The alarm's handler runs in this thread at any moment of a step, as that of Ctrl-C does.
    previous = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    try:
        assert run(*arguments, "--iterations", 10_000, "--checkpoint-every", 10_000) == 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert signal.getsignal(signal.SIGINT) is before
    step = ckpt.load(config.out / "checkpoint.safetensors").facts["step"]
    assert f"stopped at iteration {step}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("_interruptible")
def test_a_second_ctrl_c_is_not_caught() -> None:
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_says_from_where(
    small: Callable[..., FitConfig], pictures: PictureSet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small()
    fit(config, pictures)
    with StopOnSignal() as stop, watching(config, stop) as hooks:
        fit(config, pictures, hooks)
    assert "going on from iteration 12" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_help_is_made_of_the_field_docstrings(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--help") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    expected = {
        "fit": ["--network.width", "Channels C of every hidden layer", "--augment.cutmix"],
        "evaluate": ["x8 self-ensemble", "--clip"],
    }
    assert all(text in said for text in expected[command])
