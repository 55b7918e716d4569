"""File to file goes through the product's own session."""

from __future__ import annotations

import json
from pathlib import Path

import av
import jsonschema
import numpy as np
import pytest

from bench.file_mode import clip_for
from bench.fps_cli import main
from bench.proof import schema

FRAMES = 6


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(FRAMES):
            picture = draw.integers(0, 256, (32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_every_frame_of_the_clip_is_counted(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mode", "file", "--clip", str(clip), "--size", "32", "--format", "nv12"]
    assert main([*arguments, "--model", "fast", "--require", "0.01"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    jsonschema.validate(found, schema())
    assert (found["mode"], found["frames"], found["dropped"]) == ("file", FRAMES, 0)
    assert found["fps_file"] > 0
    assert found["fps_pipeline"] is None
    assert found["format"] == "nv12"


def test_a_clip_of_another_size_is_not_measured_under_a_wrong_name(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--mode", "file", "--clip", str(clip), "--size", "48", "--backend", "nearest"]
    assert main(arguments) == 2
    assert "clip.mp4 is 32x32: say so with --size" in capsys.readouterr().err


def test_a_clip_that_is_no_video_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not a video")
    assert main(["--mode", "file", "--clip", str(path), "--size", "32", "--model", "fast"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_bundled_clips_are_found_by_size() -> None:
    assert clip_for(256, 256).is_file()
    with pytest.raises(FileNotFoundError, match="give one with --clip"):
        clip_for(100, 100)
