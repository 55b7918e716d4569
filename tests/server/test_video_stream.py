from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler
from server.media.errors import UnsupportedMedia
from server.video_options import Progress, VideoOptions
from server.video_stream import VideoStream
from tests.server.media.clips import Clip, read_clip, write_clip


@pytest.fixture
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(NearestBackend()) as opened:
        yield opened


def test_the_bytes_are_a_whole_video_and_the_manifest_comes_after(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", Clip(audio=("aac",)))
    with VideoStream(source, upscaler, VideoOptions()) as stream:
        content = b"".join(stream)
        assert stream.manifest is not None
        assert stream.manifest.frames_out == 6
    (tmp_path / "a.mp4").write_bytes(content)
    assert read_clip(tmp_path / "a.mp4").seconds == read_clip(source).seconds


def test_an_error_surfaces_where_the_bytes_end(tmp_path: Path, upscaler: Upscaler) -> None:
    (tmp_path / "text").write_bytes(b"no video at all")
    stream = VideoStream(tmp_path / "text", upscaler, VideoOptions())
    with stream, pytest.raises(UnsupportedMedia):
        list(stream)
    assert stream.manifest is None


def test_closing_early_stops_the_work(tmp_path: Path, upscaler: Upscaler) -> None:
    clip = Clip(frames=200, width=64, height=64)
    source = write_clip(tmp_path / "source", clip)
    seen: list[Progress] = []
    options = VideoOptions(real_time=True, quality=0)
    with VideoStream(source, upscaler, options, seen.append) as stream:
        next(iter(stream))
    assert stream.manifest is None
    assert len(seen) < 200
