"""What the picture looks like: colours, tags, rotation, shape, size."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.selection import open_backend
from engine.upscaler import Upscaler
from server.media.errors import (
    CodecUnavailable,
)
from server.session import upscale_video
from server.video_options import VideoOptions
from tests.server.media.clips import (
    Clip,
    pattern,
    read_clip,
    write_clip,
)


@pytest.mark.parametrize(
    "matrix",
    [(0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)],
)
def test_rotation_mirroring_and_pixel_shape_are_kept(
    matrix: tuple[int, ...], tmp_path: Path, upscaler: Upscaler
) -> None:
    clip = Clip(display_matrix=matrix, sample_aspect_ratio=Fraction(4, 3))
    source = write_clip(tmp_path / "source", clip)
    for name in ("a.mp4", "a.mkv"):
        upscale_video(source, tmp_path / name, upscaler)
        with av.open(str(tmp_path / name)) as opened:
            stream = opened.streams.video[0]
            frame = next(opened.decode(stream))
            assert stream.sample_aspect_ratio == Fraction(4, 3)
            assert struct.unpack("<9i", bytes(frame.side_data["DISPLAYMATRIX"])) == matrix


@pytest.mark.parametrize("form", ["nv12", "rgb24"])
@pytest.mark.parametrize(("matrix", "full_range"), [(1, False), (1, True), (6, False), (6, True)])
def test_red_and_blue_keep_their_colour_and_their_tags(
    form: str, matrix: int, full_range: bool, tmp_path: Path, upscaler: Upscaler
) -> None:
    for colour in ((230, 20, 30), (20, 30, 220)):
        clip = Clip(
            colour=colour,
            matrix=matrix,
            full_range=full_range,
            primaries=matrix,
            transfer=matrix,
            frames=2,
        )
        source = write_clip(tmp_path / "source", clip)
        options = VideoOptions(formats=(form,))
        manifest = upscale_video(source, tmp_path / "a.mp4", upscaler, options)
        assert manifest.input["frame_format"] == form
        frame = read_clip(tmp_path / "a.mp4").frames[0]
        assert (frame.colorspace, int(frame.color_range)) == (matrix, 2 if full_range else 1)
        assert (frame.color_primaries, frame.color_trc) == (matrix, matrix)
        shown = frame.to_ndarray(
            format="rgb24",
            src_colorspace=1 if matrix == 1 else 5,
            src_color_range=2 if full_range else 1,
            dst_color_range=2,
        )
        assert np.abs(shown.astype(int) - colour).max() <= 5


def test_an_untagged_small_video_is_tagged_with_the_matrix_that_it_was_made_with(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", Clip(height=200))
    upscale_video(source, tmp_path / "a.mp4", upscaler)
    assert read_clip(tmp_path / "a.mp4").frames[0].colorspace == 6


@pytest.mark.parametrize("form", ["nv12", "rgb24"])
def test_another_height_averages_the_large_picture(
    form: str, tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", Clip())
    options = VideoOptions(height=48, formats=(form,), quality=1)
    manifest = upscale_video(source, tmp_path / "a.mp4", upscaler, options)
    frame = read_clip(tmp_path / "a.mp4").frames[0]
    assert (frame.width, frame.height) == (64, 48)
    assert (manifest.output["width"], manifest.output["height"]) == (64, 48)
    small = frame.to_ndarray(format="rgb24")[::2, ::2].astype(int)
    assert np.median(np.abs(small - pattern(32, 24, 0))) <= 12
    for wrong in (VideoOptions(height=97), VideoOptions(size=(31, 24))):
        with pytest.raises(CodecUnavailable):
            upscale_video(source, tmp_path / "b.mp4", upscaler, wrong)


@pytest.mark.parametrize("form", ["nv12", "rgb24"])
def test_the_network_runs_a_video_in_both_frame_formats(form: str, tmp_path: Path) -> None:
    clip = Clip(width=17, height=12, frames=3, codec="libvpx-vp9", muxer="webm")
    source = write_clip(tmp_path / "source", clip)
    with Upscaler(open_backend("onnxruntime", "fast", allow_untrained=True), guard=False) as real:
        manifest = upscale_video(source, tmp_path / "a.mp4", real, VideoOptions(formats=(form,)))
    after = read_clip(tmp_path / "a.mp4")
    assert manifest.backend["name"] == "onnxruntime"
    assert manifest.input["frame_format"] == form
    assert [(f.width, f.height) for f in after.frames] == [(68, 48)] * 3
    assert after.seconds == read_clip(source).seconds
