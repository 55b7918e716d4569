"""Everything beside the picture: sounds, subtitles, attachments, chapters, tags."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import pytest

from engine.upscaler import Upscaler
from server.session import upscale_video
from server.video_options import VideoOptions
from tests.server.media.clips import (
    Clip,
    read_clip,
    write_clip,
    write_clip_with_cover,
    write_rich_clip,
)


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


def test_what_a_container_changes_about_a_sound_is_listed(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    primed = write_clip(tmp_path / "primed", Clip(audio=("aac",)))
    (warning,) = upscale_video(primed, tmp_path / "a.mkv", upscaler).warnings
    assert warning.startswith("the first packets of stream 1 begin up to 0.021 s later")
    assert upscale_video(primed, tmp_path / "a.mp4", upscaler).warnings == []
    headed = write_clip(tmp_path / "headed", Clip(muxer="mpegts", audio=("aac",)))
    (sound,) = upscale_video(headed, tmp_path / "b.mp4", upscaler).copied
    assert sound["changed"] == "the ADTS header of every packet is left out"


def test_tags_that_a_container_cannot_hold_are_listed(tmp_path: Path, upscaler: Upscaler) -> None:
    tags = {"title": "Hello", "ARTIST": "somebody", "MOOD": "calm"}
    source = write_clip(tmp_path / "source", Clip(muxer="matroska", metadata=tags))
    (dropped,) = upscale_video(source, tmp_path / "a.mp4", upscaler).dropped
    assert dropped == {"type": "tags", "count": 1, "reason": "mp4 cannot hold MOOD; use mkv"}
    assert upscale_video(source, tmp_path / "a.mkv", upscaler).dropped == []
    with av.open(str(tmp_path / "a.mp4")) as opened:
        assert (opened.metadata["title"], opened.metadata["artist"]) == ("Hello", "somebody")
