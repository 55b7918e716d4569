"""The demo leaves four files, and its figures are about the file that a person gets."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server import demo, upscale_cli
from server.comparison import Column, busiest_places, psnr_y_db, side_by_side

FILES = ["comparison.png", "input.mp4", "manifest.json", "output_x4.mp4"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first three frames of the bundled clip and of its ground truth."""
    folder = tmp_path_factory.mktemp("clips")
    for name, height in (("city_256x256.mp4", 256), ("city_1024x1024.mp4", 1024)):
        cut = ["--end", "0.1", "--height", str(height), "--quality", "6", "--backend", "nearest"]
        assert upscale_cli.main([str(demo.CLIPS / name), str(folder / name), *cut]) == 0
    return folder / "city_256x256.mp4", folder / "city_1024x1024.mp4"


def run_demo(clips: tuple[Path, Path], out: Path) -> int:
    clip, truth = map(str, clips)
    return demo.main(["--clip", clip, "--truth", truth, "--out", str(out), "--backend", "nearest"])


def test_exactly_four_files_are_left_and_the_figures_are_printed(
    clips: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FILES:
        (tmp_path / name).write_text("left by an earlier run")
    assert run_demo(clips, tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert (tmp_path / "input.mp4").read_bytes() == clips[0].read_bytes()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    figures = manifest["demo"]
    assert figures["frames_compared"] == manifest["frames_out"] == 3
    assert [stream["codec"] for stream in manifest["copied"]] == ["aac"]
    # Bicubic is worth 28.6 dB on this clip and repetition 1.5 dB less.
    assert figures["bicubic_psnr_y_db"] == pytest.approx(28.6, abs=0.5)
    assert 0.8 < figures["bicubic_psnr_y_db"] - figures["ours_psnr_y_db"] < 2
    printed = capsys.readouterr().out
    assert re.search(rf"PSNR-Y  bicubic {figures['bicubic_psnr_y_db']:.2f} dB", printed)
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.size == (4 * 332 + 12, 58 + 2 * 332)


def test_other_files_in_the_way_are_never_deleted(
    clips: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert run_demo(clips, tmp_path) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_ground_truth_that_does_not_fit_is_one_sentence(
    clips: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_demo((clips[0], demo.CLIPS / "city_1024x1024.mp4"), tmp_path) == 2
    assert "does not have the frames" in capsys.readouterr().err


def test_psnr_is_that_of_bt601_luma_inside_the_border() -> None:
    truth = np.full((16, 16, 3), 100, np.uint8)
    result = truth + 10
    error = 10 * (65.481 + 128.553 + 24.966) / 255
    assert psnr_y_db(result, truth) == pytest.approx(20 * math.log10(255 / error))
    framed = truth.copy()
    framed[:4] = framed[-4:] = framed[:, :4] = framed[:, -4:] = 255
    assert psnr_y_db(framed, truth) == math.inf
    assert psnr_y_db(framed, truth, border=3) < 40


def test_the_busiest_places_lie_apart_and_where_the_detail_is() -> None:
    truth = np.zeros((128, 128, 3), np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    truth[0:16, 96:112] = noise
    truth[96:112, 16:32] = noise
    assert busiest_places(truth, 16, 2) == [(0, 96), (96, 16)]


def test_every_column_shows_the_same_place_at_the_same_size() -> None:
    truth = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    small = truth[::4, ::4].copy()
    columns = [Column("a", "", small), Column("b", "", truth)]
    picture = np.asarray(side_by_side(columns, [(16, 32)], side=16, zoom=2))
    assert picture.shape == (58 + 44, 2 * 44 + 12, 3)
    shown_small, shown_truth = picture[58:90, 12:44], picture[58:90, 56:88]
    assert np.array_equal(shown_truth[::2, ::2], truth[16:32, 32:48])
    assert np.array_equal(shown_small[::8, ::8], small[4:8, 8:12])
