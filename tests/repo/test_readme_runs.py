"""What the README and its pages show does what they say, run in a folder of small files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.server.live import live_server, wait_ready
from tests.server.media.clips import Clip, write_clip

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "tests" / "data" / "pictures"


def marked_block(name: str, page: str = "README.md") -> str:
    text = (ROOT / page).read_text()
    found = re.search(rf"<!-- run: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"{page} has no block marked {name}"
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the README's commands expect: a picture, a folder of pictures, a clip with sound."""
    with Image.open(PICTURES / "skyline.png") as picture:
        small = picture.crop((0, 0, 40, 24))
    small.save(tmp_path / "small.png")
    (tmp_path / "pictures").mkdir()
    small.save(tmp_path / "pictures" / "one.png")
    small.rotate(90, expand=True).save(tmp_path / "pictures" / "two.jpg")
    write_clip(tmp_path / "clip.mp4", Clip(width=64, height=48, frames=8, audio=("aac",)))
    return tmp_path


def run_block(block: str, folder: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SR_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def video_facts(path: Path) -> tuple[int, int, list[Fraction | None], list[bytes]]:
    """Width, height, presentation times of all frames, and the payload of all audio packets."""
    with av.open(str(path)) as container:
        times = [
            None if f.pts is None or f.time_base is None else f.pts * f.time_base
            for f in container.decode(video=0)
        ]
        stream = container.streams.video[0]
        width, height = stream.width, stream.height
    with av.open(str(path)) as container:
        sound = [bytes(p) for p in container.demux(audio=0) if p.size]
    return width, height, times, sound


def test_the_command_line_block(folder: Path) -> None:
    run_block(marked_block("cli"), folder)
    assert size_of(folder / "large.png") == size_of(folder / "best.png") == (160, 96)
    assert sorted(p.name for p in (folder / "pictures_x4").iterdir()) == ["one.png", "two.jpg"]
    _, _, times, sound = video_facts(folder / "clip.mp4")
    assert video_facts(folder / "clip_x4.mp4") == (256, 192, times, sound)
    assert video_facts(folder / "half.mkv")[:2] == (128, 96)
    assert json.loads((folder / "half.json").read_text())["frames_out"] == 8


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_http_block(folder: Path, tmp_path: Path) -> None:
    with live_server(tmp_path / "data", SR_BACKEND="onnxruntime", SR_MODEL="fast") as server:
        wait_ready(server)
        shown = run_block(marked_block("api"), folder, URL=server.url)
    assert size_of(folder / "large.png") == (160, 96)
    _, _, times, sound = video_facts(folder / "clip.mp4")
    assert video_facts(folder / "streamed.mp4") == (256, 192, times, sound)
    assert video_facts(folder / "job.mp4")[1:] == (128, times, sound)
    assert '"onnxruntime"' in shown


def test_the_python_block(folder: Path, tmp_path: Path) -> None:
    block = marked_block("python", "docs/api-python.md")
    with live_server(tmp_path / "data") as server:
        wait_ready(server)
        program = block.replace("http://127.0.0.1:8000", server.url)
        assert program != block
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        *seen, link = done.stdout.splitlines()
        with server.client() as stranger:
            assert stranger.get(link).content == (folder / "clip_x4.mp4").read_bytes()
    assert seen[-1].startswith("done 8 ")
    assert size_of(folder / "large.png") == (160, 96)
    assert size_of(folder / "preview.jpg") == (256, 192)  # as the engine made it
    assert video_facts(folder / "clip_x4.mp4")[1] == 128
