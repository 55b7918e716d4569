"""Every frame and moment of a video, from end to end."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.upscaler import Upscaler
from server.manifest import Manifest, manifest_from_dict, pts_sha256
from server.media.errors import (
    Cancelled,
)
from server.session import upscale_video
from server.video_options import Progress, VideoOptions
from tests.server.accepted_clips import ACCEPTED
from tests.server.media.clips import (
    Clip,
    read_clip,
    write_clip,
)


@pytest.mark.parametrize("case", ACCEPTED)
def test_every_frame_moment_and_sound_of_what_is_accepted_survives(
    case: str, tmp_path: Path, upscaler: Upscaler
) -> None:
    clip = ACCEPTED[case]
    source = write_clip(tmp_path / "source", clip)
    output = tmp_path / "output.mp4"
    manifest = upscale_video(source, output, upscaler)
    before, after = read_clip(source), read_clip(output)
    assert len(after.frames) == len(before.frames) == clip.frames
    assert {(f.width, f.height) for f in after.frames} == {(clip.width * 4, clip.height * 4)}
    assert after.seconds == before.seconds
    assert list(after.payloads.values()) == list(before.payloads.values())
    assert manifest.frames_in == manifest.frames_out == manifest.frames_encoded == clip.frames
    assert not manifest.dropped
    assert not manifest.input_truncated
    for mine, theirs in zip(after.frames, before.frames, strict=True):
        small = mine.to_ndarray(format="rgb24")[::4, ::4].astype(int)
        error = np.abs(small - theirs.to_ndarray(format="rgb24"))
        assert np.median(error) <= 10
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_stream_has_the_same_moments_as_the_source(
    container: str, tmp_path: Path, upscaler: Upscaler
) -> None:
    clip = ACCEPTED["variable frame rate"]
    source = write_clip(tmp_path / "source", Clip(**{**vars_of(clip), "audio": ("aac",)}))
    sink = io.BytesIO()
    options = VideoOptions(container=container, real_time=False)  # type: ignore[arg-type]
    manifest = upscale_video(source, sink, upscaler, options)
    streamed = tmp_path / "streamed"
    streamed.write_bytes(sink.getvalue())
    before, after = read_clip(source), read_clip(streamed)
    tick = Fraction(0) if container == "mp4" else Fraction(1, 2000)
    for mine, theirs in zip(after.seconds, before.seconds, strict=True):
        assert abs(mine - theirs) <= tick
    assert list(after.payloads.values()) == list(before.payloads.values())
    assert ("nearest millisecond" in manifest.output["clock"]) == (container == "mkv")


def vars_of(clip: Clip) -> dict[str, object]:
    return {name: getattr(clip, name) for name in clip.__dataclass_fields__}


def test_repeated_frames_are_counted_and_shown_at_their_own_moments(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", Clip(still=True, codec="mpeg2video", muxer="matroska"))
    manifest = upscale_video(source, tmp_path / "a.mp4", upscaler)
    before, after = read_clip(source), read_clip(tmp_path / "a.mp4")
    assert manifest.frames_reused > 0
    assert manifest.frames_out == 6
    assert after.seconds == before.seconds
    exact = VideoOptions(reuse_duplicates=False)
    assert upscale_video(source, tmp_path / "b.mp4", upscaler, exact).frames_reused == 0


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_other_codecs_keep_count_and_moments(
    codec: str, tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", ACCEPTED["variable frame rate"])
    options = VideoOptions(codec=codec, real_time=True)
    upscale_video(source, tmp_path / "a.mp4", upscaler, options)
    assert read_clip(tmp_path / "a.mp4").seconds == read_clip(source).seconds


def test_progress_is_told_and_a_job_can_be_cancelled(tmp_path: Path, upscaler: Upscaler) -> None:
    source = write_clip(tmp_path / "source", Clip(frames=8))
    seen: list[Progress] = []
    upscale_video(source, tmp_path / "a.mp4", upscaler, None, seen.append)
    assert [progress.frames for progress in seen] == list(range(1, 9))
    assert seen[-1].frames_total == 8
    assert seen[-1].eta_seconds == 0
    seen.clear()
    with pytest.raises(Cancelled):
        upscale_video(
            source,
            tmp_path / "b.mp4",
            upscaler,
            None,
            seen.append,
            cancelled=lambda: len(seen) >= 3,
        )
    assert len(seen) == 3
    assert not (tmp_path / "b.mp4").exists()


def test_the_manifest_survives_json_and_its_hash_is_over_exact_fractions(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    clip = ACCEPTED["variable frame rate"]
    source = write_clip(tmp_path / "source", clip)
    manifest = upscale_video(source, tmp_path / "a.mp4", upscaler)
    assert clip.pts is not None
    assert manifest.pts_sha256 == pts_sha256(clip.pts, clip.time_base)
    assert manifest.backend["name"] == "nearest"
    assert {"decode", "upscale", "write", "convert", "encode"} <= set(manifest.stages)
    again = manifest_from_dict(manifest.to_dict())
    assert isinstance(again, Manifest)
    assert again.to_dict() == manifest.to_dict()
    assert '"frames_in": 6' in manifest.to_json()
