from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.backends.nearest import NearestBackend
from engine.frames import Frame
from engine.upscaler import Upscaler
from server.media.errors import Cancelled, UnusableMedia
from server.media.joining import stamps
from server.media.ledger import FILE_NAME, Header, Ledger, Row, read
from server.segments import upscale_in_segments
from server.session import upscale_video
from server.video_options import Progress, VideoOptions
from tests.server.media.clips import Clip, read_clip, write_clip

VFR = Clip(
    frames=14,
    time_base=Fraction(1, 90000),
    pts=[3600 * n + (n * 777) % 1500 + 900 for n in range(14)],
    options={"bf": "2", "g": "6"},
    audio=("aac",),
)
WHOLE = replace(VFR, options={"bf": "2", "g": "250"})
"""One key frame: no plan, so that segments end where time says."""


class Counting(Upscaler):
    """Counts the frames that really go through, and may die at one of them."""

    def __init__(self) -> None:
        super().__init__(NearestBackend())
        self.frames = 0
        self.dies_at: int | None = None

    def stream(
        self, frames: Iterator[Frame], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        for frame in super().stream(frames, spec, copy=copy):
            if self.frames == self.dies_at:
                raise KeyboardInterrupt
            self.frames += 1
            yield frame


@pytest.fixture
def upscaler() -> Iterator[Counting]:
    with Counting() as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "segments"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("codec", "container"),
    [("libx264", "mp4"), ("libx264", "mkv"), ("libx265", "mp4"), ("libsvtav1", "mp4")],
)
def test_joined_segments_are_the_same_video_as_one_made_at_once(
    codec: str, container: str, tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    source = write_clip(tmp_path / "source", VFR)
    options = VideoOptions(codec=codec, quality=2)
    whole, joined = tmp_path / f"whole.{container}", tmp_path / f"joined.{container}"
    first = upscale_video(source, whole, upscaler, options)
    second = upscale_in_segments(source, joined, folder, upscaler, options, segment_seconds=0.2)
    assert len(list(folder.glob("segment-*.mkv"))) == 3
    assert second.pts_sha256 == first.pts_sha256
    before, after = read_clip(whole), read_clip(joined)
    assert after.seconds == before.seconds
    assert after.payloads == before.payloads
    for mine, theirs in zip(after.frames, before.frames, strict=True):
        difference = mine.to_ndarray(format="gray").astype(int) - theirs.to_ndarray(format="gray")
        assert np.abs(difference).mean() < 6
    with av.open(str(joined)) as opened:
        stamps = [p.dts for p in opened.demux(video=0) if p.dts is not None]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(("clip", "dies_at"), [(WHOLE, 0), (WHOLE, 8), (VFR, 8)])
def test_a_killed_job_goes_on_after_its_last_segment(
    clip: Clip, dies_at: int, tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    source = write_clip(tmp_path / "source", clip)
    output = tmp_path / "a.mp4"
    upscaler.dies_at = dies_at
    with pytest.raises(KeyboardInterrupt):
        upscale_in_segments(source, output, folder, upscaler, segment_seconds=0.12)
    assert not output.exists()
    ledger = read(folder)
    finished = 0 if ledger is None else ledger.frames
    assert finished <= dies_at < finished + 5
    upscaler.dies_at, upscaler.frames = None, 0
    seen: list[Progress] = []
    manifest = upscale_in_segments(
        source, output, folder, upscaler, None, seen.append, segment_seconds=0.12
    )
    assert upscaler.frames == 14 - finished
    assert seen[0].frames == finished + 1
    assert manifest.frames_in == manifest.frames_out == manifest.frames_encoded == 14
    assert manifest.fps == pytest.approx((14 - finished) / manifest.seconds, rel=0.05)
    assert read_clip(output).seconds == read_clip(source).seconds
    assert list(folder.glob("*.part")) == []


def test_a_job_that_died_at_the_very_end_only_joins(
    tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    source = write_clip(tmp_path / "source", WHOLE)
    upscale_in_segments(source, tmp_path / "a.mp4", folder, upscaler, segment_seconds=0.2)
    path = folder / FILE_NAME
    complete = path.read_text()
    for text in (complete, "\n".join(complete.splitlines()[:-1]) + '\n{"summa'):
        path.write_text(text)
        (tmp_path / "a.mp4").unlink()
        upscaler.frames = 0
        manifest = upscale_in_segments(
            source, tmp_path / "a.mp4", folder, upscaler, segment_seconds=0.2
        )
        assert upscaler.frames == 0
        assert manifest.frames_out == 14
        assert not manifest.input_truncated
        assert read_clip(tmp_path / "a.mp4").seconds == read_clip(source).seconds


def test_a_damaged_segment_and_all_after_it_are_made_again(
    tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    source = write_clip(tmp_path / "source", WHOLE)
    upscale_in_segments(source, tmp_path / "a.mp4", folder, upscaler, segment_seconds=0.2)
    ledger = read(folder)
    assert ledger is not None
    second = folder / ledger.rows[1].file
    content = bytearray(second.read_bytes())
    content[-9] ^= 1
    second.write_bytes(content)
    upscaler.frames = 0
    upscale_in_segments(source, tmp_path / "a.mp4", folder, upscaler, segment_seconds=0.2)
    assert upscaler.frames == 14 - len(ledger.rows[0].pts)
    assert read_clip(tmp_path / "a.mp4").seconds == read_clip(source).seconds


def test_other_options_start_anew(tmp_path: Path, folder: Path, upscaler: Counting) -> None:
    source = write_clip(tmp_path / "source", VFR)
    output = tmp_path / "a.mp4"
    upscale_in_segments(source, output, folder, upscaler, segment_seconds=0.2)
    upscaler.frames = 0
    options = VideoOptions(quality=40)
    upscale_in_segments(source, output, folder, upscaler, options, segment_seconds=0.2)
    assert upscaler.frames == 14


def test_a_cut_is_resumed_on_its_own_clock(
    tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    source = write_clip(tmp_path / "source", VFR)
    options = VideoOptions(start_seconds=0.1, end_seconds=0.5)
    once = upscale_video(source, tmp_path / "once.mp4", upscaler, options)
    upscaler.frames, upscaler.dies_at = 0, 6
    with pytest.raises(KeyboardInterrupt):
        upscale_in_segments(
            source, tmp_path / "a.mp4", folder, upscaler, options, segment_seconds=0.1
        )
    upscaler.dies_at = None
    manifest = upscale_in_segments(
        source, tmp_path / "a.mp4", folder, upscaler, options, segment_seconds=0.1
    )
    assert manifest.pts_sha256 == once.pts_sha256
    mine, theirs = read_clip(tmp_path / "a.mp4"), read_clip(tmp_path / "once.mp4")
    assert mine.seconds == theirs.seconds
    assert mine.payloads == theirs.payloads


def test_still_pictures_cost_one_segment_and_keep_their_moments(
    tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    clip = Clip(still=True, codec="mpeg2video", muxer="matroska", frames=12)
    source = write_clip(tmp_path / "source", clip)
    manifest = upscale_in_segments(
        source, tmp_path / "a.mp4", folder, upscaler, segment_seconds=0.1
    )
    assert manifest.frames_reused > 0
    assert manifest.frames_out == 12
    assert read_clip(tmp_path / "a.mp4").seconds == read_clip(source).seconds


def test_cancelling_and_bad_input_end_like_a_session(
    tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    source = write_clip(tmp_path / "source", VFR)
    with pytest.raises(Cancelled):
        upscale_in_segments(
            source, tmp_path / "a.mp4", folder, upscaler, cancelled=lambda: upscaler.frames > 4
        )
    source.write_bytes(source.read_bytes()[:400])
    with pytest.raises(UnusableMedia):
        upscale_in_segments(source, tmp_path / "a.mp4", folder, upscaler)
    assert not (tmp_path / "a.mp4").exists()


def test_decoding_times_never_exceed_presentation_times_and_always_grow() -> None:
    rows = [
        Row("a", "", [0, 10, 25, 30], [10] * 4, [0, 2, 1, 3]),
        Row("b", "", [40, 70, 71], [10] * 3, [0, 2, 1]),
    ]
    found = stamps(Ledger(Header("", "1/100", 0), rows))
    assert [stamp.pts for stamp in found] == [0, 25, 10, 30, 40, 71, 70]
    times = [stamp.dts for stamp in found]
    assert times == sorted(set(times))
    assert all(stamp.dts <= stamp.pts for stamp in found)


def test_the_ledger_is_one_json_object_a_line(
    tmp_path: Path, folder: Path, upscaler: Counting
) -> None:
    source = write_clip(tmp_path / "source", Clip())
    upscale_in_segments(source, tmp_path / "a.mp4", folder, upscaler, segment_seconds=0.1)
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    assert lines[0]["time_base"] == "1/12800"
    assert [len(line["row"]["pts"]) for line in lines[1:-1]] == [3, 3]
    assert lines[-1]["summary"]["frames"] == 6
