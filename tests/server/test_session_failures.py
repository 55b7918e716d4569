"""What cannot be done is an error, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from engine.backends.base import BackendInfo, LaneSpec
from engine.backends.nearest import NearestBackend
from engine.errors import EngineFault
from engine.frames import Frame
from engine.upscaler import Upscaler
from server.media.errors import (
    CodecUnavailable,
    EncodeError,
    MediaError,
    UnsupportedMedia,
    UnusableMedia,
)
from server.session import upscale_video
from server.video_options import VideoOptions
from tests.server.accepted_clips import ACCEPTED
from tests.server.media.clips import (
    Clip,
    write_clip,
)


def test_a_codec_or_name_that_cannot_be_used_is_refused(tmp_path: Path, upscaler: Upscaler) -> None:
    source = write_clip(tmp_path / "source", Clip(frames=1))
    with pytest.raises(CodecUnavailable, match=r"\.mp4, \.mov or \.mkv"):
        upscale_video(source, tmp_path / "a.wmv", upscaler)
    with pytest.raises(CodecUnavailable, match="choose one of"):
        upscale_video(source, tmp_path / "a.mp4", upscaler, VideoOptions(codec="theora"))
    tiny = write_clip(tmp_path / "tiny", ACCEPTED["one pixel"])
    with pytest.raises(CodecUnavailable, match="use one of libx264"):
        upscale_video(tiny, tmp_path / "a.mp4", upscaler, VideoOptions(codec="libx265"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "tiny"]


def test_a_cut_input_is_reported_and_refused_when_strict(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", Clip(movflags="faststart", frames=12))
    source.write_bytes(source.read_bytes()[:-700])
    manifest = upscale_video(source, tmp_path / "a.mp4", upscaler)
    assert manifest.input_truncated
    assert any("cut short" in warning for warning in manifest.warnings)
    with pytest.raises(UnusableMedia) as caught:
        upscale_video(source, tmp_path / "b.mp4", upscaler, VideoOptions(strict=True))
    assert caught.value.code == "truncated"
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize("content", [b"", b"some text\n" * 50, b"\0" * 999, b"GIF89a"])
def test_bad_input_leaves_nothing_behind(
    content: bytes, tmp_path: Path, upscaler: Upscaler
) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    with pytest.raises(MediaError):
        upscale_video(source, tmp_path / "a.mp4", upscaler)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_an_existing_output_stays_as_it_is_when_the_job_fails(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    output = tmp_path / "a.mp4"
    output.write_bytes(b"precious")
    source = tmp_path / "source"
    source.write_bytes(b"nothing")
    with pytest.raises(UnsupportedMedia):
        upscale_video(source, output, upscaler)
    assert output.read_bytes() == b"precious"


class Broken:
    """An upscaler that loses or breaks something at its third frame."""

    info = BackendInfo("broken", "0", "none")

    def __init__(self, how: str) -> None:
        self._how = how

    def stream(
        self, frames: Iterator[Frame], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        for index, frame in enumerate(_repeated(frames, spec)):
            if index == 2 and self._how == "fault":
                raise EngineFault("the lane made nonsense")
            if index != 2:
                yield frame


def _repeated(frames: Iterator[Frame], spec: LaneSpec) -> Iterator[Frame]:
    with Upscaler(NearestBackend()) as good:
        yield from good.stream(frames, spec)


def test_a_frame_that_gets_lost_or_fails_is_an_error_and_never_a_short_file(
    tmp_path: Path,
) -> None:
    source = write_clip(tmp_path / "source", Clip())
    with pytest.raises(EncodeError, match="6 decoded, 5 upscaled"):
        upscale_video(source, tmp_path / "a.mp4", Broken("lost"))
    with pytest.raises(EngineFault):
        upscale_video(source, tmp_path / "a.mp4", Broken("fault"))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_sink_that_fails_stops_the_job_and_leaves_no_process(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    source = write_clip(tmp_path / "source", Clip(frames=20))
    descriptors = open_descriptors()
    with pytest.raises((OSError, EncodeError)):
        upscale_video(source, Full(), upscaler)
    assert open_descriptors() == descriptors
