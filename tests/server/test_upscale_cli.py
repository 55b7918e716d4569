"""``sr-upscale`` from the outside: files in, files, messages and exit codes out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from engine.backends.nearest import repeat
from engine.frames import Bytes
from server.upscale_cli import main

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "tests" / "data" / "demo" / "city_256x256.mp4"


def pixels(height: int = 6, width: int = 8) -> Bytes:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    Image.fromarray(pixels()).save(path)
    return path


def upscale(*arguments: object) -> int:
    return main([*map(str, arguments), "--backend", "nearest"])


def test_a_picture_becomes_four_times_larger_and_the_backend_is_named(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, record = tmp_path / "large.png", tmp_path / "record.json"
    assert upscale(picture, target, "--manifest", record) == 0
    assert np.array_equal(np.asarray(opened(target)), repeat(pixels()))
    manifest = json.loads(record.read_text())
    assert manifest["backend"]["name"] == "nearest"
    assert (manifest["output"]["width"], manifest["output"]["height"]) == (32, 24)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sr-upscale: backend nearest" in captured.err


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    named_like_a_video = tmp_path / "holiday.mp4"
    Image.fromarray(pixels()).save(named_like_a_video, "PNG")
    assert upscale(named_like_a_video, tmp_path / "large.webp") == 0
    assert opened(tmp_path / "large.webp").size == (32, 24)


def test_size_best_and_stripped_gps_reach_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    exif[ExifTags.IFD.GPSInfo] = {1: "N"}
    source, target = tmp_path / "small.jpg", tmp_path / "large.jpg"
    Image.fromarray(pixels()).save(source, exif=exif)
    assert upscale(source, target, "--size", "16x12", "--best", "--strip-gps") == 0
    result = opened(target)
    assert result.size == (16, 12)
    assert result.getexif()[ExifTags.Base.Make] == "camera"
    assert not result.getexif().get_ifd(ExifTags.IFD.GPSInfo)


def test_a_video_comes_back_with_its_audio_and_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, record = tmp_path / "large.mkv", tmp_path / "record.json"
    arguments = ("--end", "0.2", "--height", "512", "--manifest", record)
    assert upscale(CLIP, target, *arguments) == 0
    manifest = json.loads(record.read_text())
    assert manifest["frames_in"] == manifest["frames_out"] == 6
    assert (manifest["output"]["width"], manifest["output"]["height"]) == (512, 512)
    assert [stream["codec"] for stream in manifest["copied"]] == ["aac"]
    assert target.stat().st_size > 1000
    assert "512x512, 6 frames" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.mkv", "record.json"]


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(pixels(4 + index, 5)).save(folder / f"{index}.png")
    Image.fromarray(pixels()).save(folder / "really a jpeg.png", "JPEG")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "sub").mkdir()
    return folder


def test_a_folder_is_done_once_and_finished_ones_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = folder_of(tmp_path), tmp_path / "deep" / "out"
    assert upscale(folder, target) == 0
    assert "4 done, 0 skipped (finished earlier), 0 failed, 1 other" in capsys.readouterr().err
    names = sorted(path.name for path in target.iterdir())
    assert names == ["0.png", "1.png", "2.png", "really a jpeg.png.jpeg"]
    assert opened(target / "really a jpeg.png.jpeg").format == "JPEG"
    (target / "1.png").unlink()
    before = (target / "0.png").stat()
    assert upscale(folder, target) == 0
    assert "1 done, 3 skipped" in capsys.readouterr().err
    assert (target / "0.png").stat() == before
    assert upscale(folder, target, "--overwrite") == 0
    assert "4 done, 0 skipped" in capsys.readouterr().err


def test_a_broken_picture_does_not_stop_the_others_but_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target, record = folder_of(tmp_path), tmp_path / "out", tmp_path / "record.json"
    whole = (folder / "2.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "0.jpg").write_text("this is no picture at all")
    assert upscale(folder, target, "--manifest", record) == 2
    errors = capsys.readouterr().err
    assert "3 done, 0 skipped (finished earlier), 2 failed" in errors
    assert "failed: 1.png: The png picture is damaged" in errors
    assert sorted(path.name for path in target.iterdir()) == [
        "0.png",
        "2.png",
        "really a jpeg.png.jpeg",
    ]
    assert set(json.loads(record.read_text())["failed"]) == {"0.jpg", "1.png"}


BAD_FILES = {
    "empty.png": b"",
    "text.png": b"hello, world\n",
    "cut.png": None,
    "cut.mp4": CLIP.read_bytes()[:600],
    "noise.mp4": bytes(range(256)) * 8,
    "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_input_is_one_sentence_and_exit_code_2(
    name: str, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = BAD_FILES[name]
    source = tmp_path / name
    source.write_bytes(picture.read_bytes()[:90] if content is None else content)
    target = tmp_path / ("out" + source.suffix)
    assert upscale(source, target) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("sr-upscale: error: ")
    assert lines[-1].endswith(".")
    assert "Traceback" not in "".join(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "small.png"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", "out.png"], "missing.png: No such file"),
        (["small.png", "out.mp4"], "OUT must end in .png"),
        (["small.png", "out"], "OUT must end in .png"),
        (["small.png", "nowhere/out.png"], "does not exist; make it first"),
        (["small.png", "small.png"], "same file"),
        (["small.png", "there.png"], "use --overwrite"),
        (["small.png", "."], "is a folder"),
        (["small.png", "out.png", "--size", "big"], "--size is WIDTHxHEIGHT"),
        (["small.png", "out.png", "--size", "64x64"], "at most 32x24"),
        (["small.png", "out.png", "--codec", "libx264"], "--codec means nothing"),
        (["small.png", "out.png", "--quality", "101"], "1 to 100"),
        (["small.png", "out.png", "--manifest", "nowhere/m.json"], "make it first"),
        (["small.png", "out.png", "--manifest", "small.png"], "would overwrite small.png"),
        (["small.png", "out.png", "--manifest", "out.png"], "would overwrite out.png"),
        (["small.png", "out.png", "--manifest", "empty"], "empty is a folder"),
        (["small.png", "out.png", "--size", "8x8", "--height", "8"], "exclude each other"),
        (["small.png", "out.png", "--threads", "0"], "1 to 1024, not 0"),
        (["small.png", "out.png", "--threads", "9999999"], "1 to 1024, not 9999999"),
        (["clip.mp4", "out.mp4", "--end", "nan"], "seconds from 0 on, not nan"),
        (["clip.mp4", "out.mp4", "--start", "1e300"], "seconds from 0 on, not 1e+300"),
        (["clip.mp4", "out.mp4", "--end", "-1"], "seconds from 0 on, not -1"),
        (["clip.mp4", "out.mp4", "--best"], "--best means nothing"),
        (["clip.mp4", "out.png"], "OUT must end in .mp4"),
        (["clip.mp4", "out.mp4", "--codec", "divx"], "libx264"),
        (["clip.mp4", "out.mp4", "--quality", "99"], "0 (best) to 51"),
        (["empty", "out"], "no pictures"),
        (["empty", "empty"], "same folder"),
        (["empty", "small.png"], "needs a folder"),
    ],
)
def test_what_does_not_go_together_is_said_before_any_work(
    arguments: list[str],
    message: str,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "clip.mp4").write_bytes(CLIP.read_bytes())
    (tmp_path / "there.png").write_bytes(b"kept")
    (tmp_path / "empty").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    assert upscale(*arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sr-upscale: error: ")
    assert message in last
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_an_unknown_model_or_option_is_exit_code_2(picture: Path, tmp_path: Path) -> None:
    assert main([str(picture), str(tmp_path / "o.png"), "--model", "no/such/file"]) == 2
    with pytest.raises(SystemExit) as caught:
        upscale(picture, tmp_path / "o.png", "--bets")
    assert caught.value.code == 2
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["^C", "SIGTERM"]
)
def test_an_interrupted_video_leaves_nothing_half_written(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    target = tmp_path / "large.mp4"
    command = [sys.executable, "-m", "server.upscale_cli", str(CLIP), str(target)]
    with subprocess.Popen(
        [*command, "--backend", "nearest"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not any(path.suffix == ".part" for path in tmp_path.iterdir()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            os.sched_yield()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
