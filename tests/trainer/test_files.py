"""What a run writes on a full disk or into a folder that is none: a sentence, and no half file."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer import checkpoint as ckpt
from trainer.__main__ import main
from trainer.ablate import write_json
from trainer.config import FitConfig
from trainer.data import PictureSet
from trainer.errors import CheckpointError, Interrupted, TrainerError
from trainer.events import EventFile
from trainer.files import remove_leftovers, replace_file
from trainer.loop import Hooks, train
from trainer.page import Section, write_page
from trainer.release import write_scores
from trainer.training import Trainer

DEAD = 2**31 - 1  # no system numbers a process so high
LONG = "x" * 9_999
ADVICE = "cannot be written .*; free space or choose another --out"


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """Inside, no file grows beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def large_checkpoint(path: Path) -> None:
    ckpt.save(ckpt.Checkpoint({"a": torch.ones(9999)}, {}), path)


WRITERS: list[Callable[[Path], None]] = [
    lambda path: replace_file(path, LONG.encode()),
    lambda path: write_page(path, "title", "lead", [Section("heading", LONG)]),
    lambda path: write_json(path, LONG),
    lambda path: write_scores(path, {"a": LONG}),
    large_checkpoint,
]


@pytest.mark.parametrize("write", WRITERS, ids=["file", "page", "result", "scores", "checkpoint"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    path.write_text("what was there")
    with disk_full_after(4096), pytest.raises(TrainerError, match=f"kept {ADVICE}"):
        write(path)
    assert path.read_text() == "what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    write(path)
    assert path.read_bytes() != b"what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("write", WRITERS, ids=["file", "page", "result", "scores", "checkpoint"])
def test_a_folder_that_is_a_file_is_named(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainerError, match=f"file/out {ADVICE}"):
        write(tmp_path / "file" / "out")


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        large_checkpoint(tmp_path / "file" / "c.safetensors")


def test_events_end_with_the_last_whole_one_on_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with EventFile(folder) as events:
        events.add_scalar("loss", 0.5, 1)
        size = next(folder.iterdir()).stat().st_size
        with disk_full_after(size + 100), pytest.raises(TrainerError, match=f"board {ADVICE}"):
            events.add_image("picture", noise, 2)
        assert next(folder.iterdir()).stat().st_size == size
        events.add_image("picture", noise, 3)
        events.add_scalar("loss", 0.25, 4)
    found = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 0.5), (4, 0.25)]
    assert [(e.step, e.width, e.height) for e in found.Images("picture")] == [(3, 64, 64)]


def test_no_room_for_the_first_event_is_one_sentence(tmp_path: Path) -> None:
    with disk_full_after(1), pytest.raises(TrainerError, match=f"tensorboard {ADVICE}"):
        EventFile(tmp_path / "tensorboard")
    assert not list((tmp_path / "tensorboard").iterdir())


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    alive = os.getppid()
    leftovers = [f".checkpoint.safetensors.{DEAD}.tmp", f".report.html.{os.getpid()}.tmp"]
    others = [
        f".checkpoint.safetensors.{alive}.tmp", f"a.{DEAD}.tmp", ".note.tmp", f".{DEAD}.tmp",
        ".x.0.tmp", ".x.99999999999999999999.tmp", f".x.{DEAD}.tmp.old", "checkpoint.safetensors",
    ]  # fmt: skip
    for name in [*leftovers, *others]:
        (tmp_path / name).write_text("half")
    (tmp_path / f".folder.{DEAD}.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*others, f".folder.{DEAD}.tmp"}
    remove_leftovers(tmp_path / "nowhere")


def test_only_what_was_left_of_one_file_is_removed_when_it_is_named(tmp_path: Path) -> None:
    (tmp_path / f".a.{DEAD}.tmp").write_text("half")
    (tmp_path / f".b.{DEAD}.tmp").write_text("half")
    remove_leftovers(tmp_path, "a")
    assert [p.name for p in tmp_path.iterdir()] == [f".b.{DEAD}.tmp"]


def test_a_run_that_goes_on_removes_what_it_left_when_it_was_killed(
    small: Callable[..., FitConfig], pictures: PictureSet
) -> None:
    config = small(iterations=2)
    config.out.mkdir()
    left = config.out / f".checkpoint.safetensors.{DEAD}.tmp"
    left.write_text("half")
    gone = Hooks(stop=lambda: not left.exists())
    with pytest.raises(Interrupted, match="stopped at iteration 1"):
        train(Trainer(config, pictures, torch.device("cpu")), gone)


def test_an_out_that_is_a_file_is_one_sentence_and_exit_code_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "outfile"
    out.write_text("in the way")
    pictures = data / "train_small"
    with pytest.raises(SystemExit) as left:
        main(["fit", "--data", str(pictures), "--out", str(out), "--patch", "16"])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"sr-train: {out}/tensorboard cannot be written (a file is where a folder must be); "
        "free space or choose another --out\n"
    )


def test_scores_that_cannot_be_written_name_their_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (64, 64), (90, 120, 30)).save(pictures / "a.png")
    answer = pictures / "a.png" / "scores.json"
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "fast", "--data", str(pictures), "--json", str(answer)])
    assert left.value.code == 2
    assert "scores.json cannot be written (a file is where" in capsys.readouterr().err
