"""Red stays red and blue stays blue through the trained network, on every path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.gate_frames import to_nv12, to_rgb24
from engine.selection import open_backend
from engine.upscaler import Upscaler
from server.session import upscale_video
from server.upscale_cli import main
from tests.server.media.clips import Clip, read_clip, write_clip

COLOURS = {"red": (230, 20, 30), "blue": (20, 30, 220)}
TOLERANCE = 10


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((24, 48, 3), colour, np.uint8)


def error(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Largest difference from ``colour`` away from the border, in grey levels."""
    return int(np.abs(picture[8:-8, 8:-8].astype(int) - colour).max())


@pytest.mark.parametrize("name", COLOURS)
def test_pictures_on_the_command_line(name: str, tmp_path: Path) -> None:
    Image.fromarray(flat(COLOURS[name])).save(tmp_path / "in.png")
    arguments = [str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--backend", "onnxruntime"]
    assert main(arguments) == 0
    with Image.open(tmp_path / "out.png") as result:
        assert error(np.asarray(result), COLOURS[name]) <= TOLERANCE


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_nv12_frames(name: str, matrix: str, full_range: bool) -> None:
    frame = to_nv12(flat(COLOURS[name]), matrix, full_range)
    with Upscaler(open_backend("onnxruntime", "fast")) as upscaler:
        result = upscaler.upscale(frame, matrix=matrix, full_range=full_range)
    assert error(to_rgb24(result, matrix, full_range), COLOURS[name]) <= TOLERANCE


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("matrix", [1, 6], ids=["bt709", "bt601"])
def test_videos(name: str, matrix: int, tmp_path: Path) -> None:
    clip = Clip(width=48, height=24, frames=2, colour=COLOURS[name], matrix=matrix)
    source = write_clip(tmp_path / "in.mp4", clip)
    with Upscaler(open_backend("onnxruntime", "fast")) as upscaler:
        upscale_video(source, tmp_path / "out.mp4", upscaler)
    frame = read_clip(tmp_path / "out.mp4").frames[0]
    assert frame.colorspace == matrix
    # 5 is libswscale's name for BT.601, 1 for BT.709.
    shown = frame.to_ndarray(format="rgb24", src_colorspace=5 if matrix == 6 else 1)
    assert error(shown, COLOURS[name]) <= TOLERANCE
