from __future__ import annotations

from pathlib import Path

import pytest

from server.media.structure import missing_bytes
from tests.server.media.clips import Clip, write_clip

KINDS = {
    "mp4": Clip(movflags="faststart"),
    "fmp4": Clip(movflags="frag_keyframe+empty_moov+default_base_moof"),
    "mkv": Clip(muxer="matroska"),
    "webm": Clip(muxer="webm", codec="libvpx"),
    "avi": Clip(muxer="avi", codec="mpeg4"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_noticed_and_a_whole_one_is_not(kind: str, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole", KINDS[kind])
    assert missing_bytes(whole) == 0
    content = whole.read_bytes()
    cut = tmp_path / "cut"
    noticed = total = 0
    for keep in range(400, len(content), max(len(content) // 60, 1)):
        cut.write_bytes(content[:keep])
        total += 1
        noticed += missing_bytes(cut) > 0
    assert total > 20
    assert noticed >= 0.95 * total


def test_a_torn_transport_stream_and_a_gif_without_end_are_noticed(tmp_path: Path) -> None:
    stream = write_clip(tmp_path / "a.ts", Clip(muxer="mpegts"))
    assert missing_bytes(stream) == 0
    stream.write_bytes(stream.read_bytes()[:-10])
    assert missing_bytes(stream) == 10
    gif = write_clip(tmp_path / "a.gif", Clip(muxer="gif", codec="gif", pixel_format="rgb8"))
    assert missing_bytes(gif) == 0
    gif.write_bytes(gif.read_bytes()[:-40])
    assert missing_bytes(gif) == 1
