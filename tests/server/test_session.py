from __future__ import annotations

import io
import struct
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.backends.base import BackendInfo, LaneSpec
from engine.backends.nearest import NearestBackend
from engine.errors import EngineFault
from engine.frames import Frame
from engine.selection import open_backend
from engine.upscaler import Upscaler
from server.manifest import Manifest, manifest_from_dict, pts_sha256
from server.media.errors import (
    Cancelled,
    CodecUnavailable,
    EncodeError,
    MediaError,
    UnsupportedMedia,
    UnusableMedia,
)
from server.session import upscale_video
from server.video_options import Progress, VideoOptions
from tests.server.media.clips import (
    Clip,
    pattern,
    read_clip,
    write_clip,
    write_clip_with_cover,
    write_rich_clip,
)

ACCEPTED: dict[str, Clip] = {
    "h264 4:2:0 with sound": Clip(audio=("aac",)),
    "h264 4:2:2": Clip(pixel_format="yuv422p"),
    "h264 4:4:4": Clip(pixel_format="yuv444p"),
    "h264 rgb": Clip(codec="libx264rgb", pixel_format="rgb24"),
    "hevc 4:4:4": Clip(codec="libx265", pixel_format="yuv444p"),
    "av1": Clip(codec="libsvtav1", width=64, height=64, muxer="matroska"),
    "vp8": Clip(codec="libvpx", muxer="webm", audio=("libopus",)),
    "vp9": Clip(codec="libvpx-vp9", muxer="webm"),
    "mpeg-4 in avi": Clip(codec="mpeg4", muxer="avi", audio=("mp3",)),
    "mpeg-2 in ts": Clip(codec="mpeg2video", muxer="mpegts", audio=("mp2",)),
    "mjpeg with pcm": Clip(
        codec="mjpeg",
        pixel_format="yuvj422p",
        muxer="avi",
        full_range=True,
        audio=("pcm_s16le",),
    ),
    "prores": Clip(codec="prores_ks", pixel_format="yuv422p10le", muxer="mov"),
    "gif": Clip(
        codec="gif",
        pixel_format="rgb8",
        muxer="gif",
        time_base=Fraction(1, 100),
        pts=[0, 4, 8, 20, 24, 28],
    ),
    "fragmented mp4": Clip(movflags="frag_keyframe+empty_moov", audio=("aac",)),
    "variable frame rate": Clip(
        time_base=Fraction(1, 90000),
        pts=[0, 3003, 7000, 7100, 20000, 25001],
        options={"bf": "2"},
    ),
    "late start": Clip(
        time_base=Fraction(1, 90000), pts=[45001, 48001, 51001, 60001, 63001, 66001]
    ),
    "odd size": Clip(width=33, height=17, codec="libvpx-vp9", muxer="webm"),
    "one pixel": Clip(width=1, height=1, frames=1, pixel_format="yuv444p"),
    "one frame": Clip(frames=1),
    "three sounds": Clip(muxer="matroska", audio=("aac", "libopus", "flac")),
}


@pytest.fixture
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(NearestBackend()) as opened:
        yield opened


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


@pytest.mark.parametrize("container", ["mkv", "mp4", "mov"])
def test_sounds_subtitles_attachments_chapters_and_tags_go_along_or_are_listed(
    container: str, tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_rich_clip(tmp_path / "source")
    output = tmp_path / f"output.{container}"
    manifest = upscale_video(source, output, upscaler)
    with av.open(str(output)) as opened:
        types = [stream.type for stream in opened.streams]
        assert opened.metadata["title"] == "Hello"
        assert [chapter["metadata"]["title"] for chapter in opened.chapters()] == ["One", "Two"]
        assert opened.streams.audio[0].language == "jpn"
        if container == "mkv":
            assert types == ["video", "audio", "subtitle", "attachment"]
            assert opened.streams[3].data == b"FONTDATA" * 4
            assert manifest.dropped == []
            assert b"hello world" in [bytes(p) for p in opened.demux(opened.streams[2])]
            return
    assert [entry["type"] for entry in manifest.dropped] == ["subtitle", "attachment"]
    assert all("use mkv" in entry["reason"] for entry in manifest.dropped)


def test_only_the_first_video_that_is_no_cover_is_used_and_the_others_are_listed(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip_with_cover(tmp_path / "source", videos=2)
    manifest = upscale_video(source, tmp_path / "a.mp4", upscaler)
    assert read_clip(tmp_path / "a.mp4").frames[0].width == 128
    reasons = {entry["index"]: entry["reason"] for entry in manifest.dropped}
    assert reasons == {1: "only the first video stream is upscaled", 3: "cover picture"}
    assert [entry["type"] for entry in manifest.copied] == ["audio"]


def test_sound_out_of_a_transport_stream_only_loses_its_adts_headers(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", Clip(muxer="mpegts", audio=("aac", "aac")))
    before = read_clip(source)
    bare = [[packet[7:] for packet in packets] for packets in before.payloads.values()]
    for name in ("a.mp4", "a.mkv"):
        upscale_video(source, tmp_path / name, upscaler)
        assert list(read_clip(tmp_path / name).payloads.values()) == bare
    for container in ("mp4", "mkv"):
        sink = io.BytesIO()
        options = VideoOptions(container=container)  # type: ignore[arg-type]
        manifest = upscale_video(source, sink, upscaler, options)
        (tmp_path / "streamed").write_bytes(sink.getvalue())
        assert not manifest.dropped
        after = read_clip(tmp_path / "streamed")
        assert list(after.payloads.values()) == bare
        tick = Fraction(0) if container == "mp4" else Fraction(1, 2000)
        moments = zip(after.seconds, before.seconds, strict=True)
        assert all(abs(mine - theirs) <= tick for mine, theirs in moments)


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


def test_a_cut_starts_at_zero_with_its_sound(tmp_path: Path, upscaler: Upscaler) -> None:
    source = write_clip(tmp_path / "source", Clip(frames=10, audio=("aac",)))
    options = VideoOptions(start_seconds=0.12, end_seconds=0.24)
    manifest = upscale_video(source, tmp_path / "a.mp4", upscaler, options)
    after = read_clip(tmp_path / "a.mp4")
    assert after.seconds == [Fraction(n, 25) for n in range(3)]
    assert manifest.frames_skipped == 3
    before = [packet for packets in read_clip(source).payloads.values() for packet in packets]
    mine = [packet for packets in after.payloads.values() for packet in packets]
    assert 0 < len(mine) < len(before)
    assert "".join(p.hex() for p in mine) in "".join(p.hex() for p in before)


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


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_other_codecs_keep_count_and_moments(
    codec: str, tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", ACCEPTED["variable frame rate"])
    options = VideoOptions(codec=codec, real_time=True)
    upscale_video(source, tmp_path / "a.mp4", upscaler, options)
    assert read_clip(tmp_path / "a.mp4").seconds == read_clip(source).seconds


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


def test_sound_that_is_damaged_costs_neither_the_picture_nor_the_rest(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    source = write_clip(tmp_path / "source", Clip(muxer="mpegts", audio=("aac",)))
    content = bytearray(source.read_bytes())
    packets = read_clip(source).payloads[1]
    for packet in packets[3:5]:
        place = content.find(packet[:8])
        content[place : place + 2] = b"\0\0"
    source.write_bytes(content)
    for name in ("a.mp4", "a.mkv"):
        manifest = upscale_video(source, tmp_path / name, upscaler)
        assert manifest.frames_out == 6
        kept = read_clip(tmp_path / name).payloads[1]
        assert len(packets) - 6 <= len(kept) < len(packets)


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
    assert again == manifest
    assert '"frames_in": 6' in manifest.to_json()


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
