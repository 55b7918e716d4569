from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.frames import Nv12
from server.media.child import Child
from server.media.decode import DecodeOptions, Decoder, probe
from server.media.errors import MediaError, OverLimit, UnsupportedMedia, UnusableMedia
from server.media.limits import Limits
from tests.server.media.clips import (
    Clip,
    pattern,
    read_clip,
    write_clip,
    write_clip_with_cover,
    write_encrypted_clip,
    write_sound_only,
)

LIMITS = Limits()


def decode(path: Path, **options: object) -> list[np.ndarray]:
    with Decoder(path, DecodeOptions(LIMITS, **options)) as decoder:  # type: ignore[arg-type]
        return [decoded.frame for decoded in decoder]  # type: ignore[misc]


def test_frames_and_times_are_those_that_the_decoder_emits(tmp_path: Path) -> None:
    clip = Clip(pts=[0, 3, 4, 9, 20, 21], options={"bf": "2"})
    path = write_clip(tmp_path / "a", clip)
    with Decoder(path, DecodeOptions(LIMITS)) as decoder:
        frames = list(decoder)
        assert [f.pts * decoder.info.time_base for f in frames] == read_clip(path).seconds
        assert decoder.summary is not None
        assert decoder.summary.frames == decoder.summary.packets == 6
    for index, decoded in enumerate(frames):
        error = np.abs(decoded.frame.astype(int) - pattern(32, 24, index))  # type: ignore[union-attr]
        assert np.median(error) < 12


def test_nv12_holds_the_very_samples_of_the_stream(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a", Clip(width=33, height=17, codec="libvpx-vp9", muxer="webm"))
    mine = decode(path, formats=("nv12", "rgb24"))
    for frame, theirs in zip(mine, read_clip(path).frames, strict=True):
        assert isinstance(frame, Nv12)
        planes = [
            np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width]
            for p in theirs.planes
        ]
        assert np.array_equal(frame.y, planes[0])
        assert np.array_equal(frame.uv[..., 0], planes[1])
        assert np.array_equal(frame.uv[..., 1], planes[2])


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("full_range", [False, True])
def test_rgb_frames_use_the_matrix_and_range_of_the_stream(
    matrix: int, full_range: bool, tmp_path: Path
) -> None:
    for colour in ((230, 20, 30), (20, 30, 220)):
        clip = Clip(colour=colour, matrix=matrix, full_range=full_range, frames=1)
        frame = decode(write_clip(tmp_path / "a", clip))[0]
        assert np.abs(frame.astype(int) - colour).max() <= 4


def test_the_child_has_no_network_and_no_privileges(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "a", Clip()), LIMITS)
    assert info.sandbox["privileges"]
    assert info.sandbox["network"] or os.getuid() != 0


@pytest.fixture
def canary() -> Iterator[tuple[int, list[bytes]]]:
    """A server on this machine that nobody may ever talk to."""
    hits: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            hits.append(connection.recv(100))
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], hits
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_hostile_files_reach_neither_the_network_nor_their_neighbours(
    tmp_path: Path, canary: tuple[int, list[bytes]]
) -> None:
    port, hits = canary
    write_clip(tmp_path / "neighbour.mp4", Clip())
    url = f"http://127.0.0.1:{port}/x.ts"
    payloads = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nneighbour.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile neighbour.mp4\n",
        f"ffconcat version 1.0\nfile {url}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ]
    magics = (b"", b"\0\0\0\x08free", b"\x1aE\xdf\xa3")
    for payload in payloads:
        for magic in magics:
            evil = tmp_path / "evil.m3u8"
            evil.write_bytes(magic + payload.encode())
            with pytest.raises(MediaError):
                probe(evil, LIMITS)
    assert hits == []


REFUSED: dict[str, tuple[Clip, type[MediaError], str]] = {
    "ten bits": (Clip(pixel_format="yuv420p10le"), UnsupportedMedia, "bit_depth"),
    "HDR": (Clip(transfer=16, primaries=9, matrix=9), UnsupportedMedia, "hdr"),
    "alpha": (
        Clip(codec="prores_ks", pixel_format="yuva444p10le", muxer="mov"),
        UnsupportedMedia,
        "alpha",
    ),
    "alpha in webm": (
        Clip(codec="libvpx-vp9", pixel_format="yuva420p", muxer="webm"),
        UnsupportedMedia,
        "alpha",
    ),
    "another codec": (Clip(codec="ffv1", muxer="matroska"), UnsupportedMedia, "unsupported_codec"),
    "too wide": (Clip(width=80, height=20), OverLimit, "frame_too_large"),
    "too many pixels": (Clip(width=64, height=64), OverLimit, "too_many_pixels"),
    "too many frames": (Clip(frames=9), OverLimit, "too_many_frames"),
    "too long": (Clip(frames=2, pts=[0, 250]), OverLimit, "too_long"),
    "too many frames in a stream that does not say": (
        Clip(frames=9, muxer="matroska"),
        OverLimit,
        "too_many_frames",
    ),
    "too many streams": (Clip(audio=("aac", "aac", "aac")), OverLimit, "too_many_streams"),
}
SMALL = Limits(
    max_frame_pixels=3000, max_frame_side=64, max_frames=8, max_duration_seconds=5, max_streams=3
)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_or_may_not_be_processed_is_refused_with_its_reason(
    case: str, tmp_path: Path
) -> None:
    clip, kind, code = REFUSED[case]
    path = write_clip(tmp_path / "a", clip)
    with pytest.raises(MediaError) as caught, Decoder(path, DecodeOptions(SMALL)) as decoder:
        list(decoder)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.message


def test_a_size_change_in_the_middle_is_refused(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "a", Clip(muxer="mpegts")).read_bytes()
    large = write_clip(tmp_path / "b", Clip(muxer="mpegts", width=64, height=48)).read_bytes()
    both = tmp_path / "both"
    both.write_bytes(small + large)
    with pytest.raises(UnusableMedia, match="change from 32x24 yuv420p to 64x48"):
        decode(both)


def test_empty_text_soundless_and_frameless_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content, kind in ((b"", UnsupportedMedia), (b"hello " * 99, UnsupportedMedia)):
        path.write_bytes(content)
        with pytest.raises(kind):
            probe(path, LIMITS)
    write_clip(path, Clip(muxer="matroska", frames=0))
    with pytest.raises(UnusableMedia, match="no frames"):
        probe(path, LIMITS)
    write_sound_only(path)
    with pytest.raises(UnusableMedia, match="no video stream"):
        probe(path, LIMITS)
    write_clip_with_cover(path, videos=0)
    with pytest.raises(UnusableMedia, match="no video stream"):
        probe(path, LIMITS)


def test_an_encrypted_video_is_refused_rather_than_shown_as_noise(tmp_path: Path) -> None:
    with pytest.raises(UnusableMedia, match="encrypted"):
        probe(write_encrypted_clip(tmp_path / "a"), LIMITS)


def test_bits_flipped_anywhere_end_in_frames_or_one_typed_error(tmp_path: Path) -> None:
    content = write_clip(tmp_path / "a", Clip(audio=("aac",))).read_bytes()
    random = np.random.default_rng(7)
    damaged = tmp_path / "damaged"
    outcomes: list[bool] = []
    for _ in range(12):
        flipped = bytearray(content)
        for position in random.integers(0, len(content), 16):
            flipped[position] ^= int(random.integers(1, 256))
        damaged.write_bytes(flipped)
        try:
            outcomes.append(bool(decode(damaged)))
        except MediaError as error:
            outcomes.append(error.status in (415, 422) and "/" not in error.message)
    assert all(outcomes)


def test_a_child_that_is_killed_is_one_typed_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a", Clip(frames=20))
    with Decoder(path, DecodeOptions(LIMITS)) as decoder:
        frames = iter(decoder)
        next(frames)
        os.kill(decoder.pid, signal.SIGKILL)
        with pytest.raises(UnusableMedia, match="SIGKILL"):
            list(frames)


def test_a_child_that_hangs_is_given_up_and_ended() -> None:
    with Child("server.media.decode_child", "decoding") as child:
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(UnusableMedia, match="no progress"):
            child.receive(0.0)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_too_little_memory_is_an_error_and_not_a_crash_of_ours(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a", Clip(width=512, height=512))
    with pytest.raises(MediaError):
        probe(path, replace(LIMITS, decode_memory_bytes=130_000_000))


def test_start_and_end_choose_frames_and_nothing_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a", Clip(frames=10))
    with Decoder(path, DecodeOptions(LIMITS, start_seconds=0.12, end_seconds=0.28)) as decoder:
        moments = [frame.pts * decoder.info.time_base for frame in decoder]
    assert [round(float(moment), 2) for moment in moments] == [0.12, 0.16, 0.2, 0.24]
    with pytest.raises(UnusableMedia, match="no frame between"):
        decode(path, start_seconds=5.0)


def test_only_the_frames_after_a_known_one_are_handed_over(tmp_path: Path) -> None:
    for muxer in ("mp4", "mpegts"):
        clip = Clip(muxer=muxer, frames=12, options={"g": "5", "bf": "2"})
        path = write_clip(tmp_path / muxer, clip)
        with Decoder(path, DecodeOptions(LIMITS)) as decoder:
            whole = list(decoder)
        with Decoder(path, DecodeOptions(LIMITS, after_pts=whole[6].pts)) as decoder:
            rest = list(decoder)
        assert [frame.pts for frame in rest] == [frame.pts for frame in whole[7:]]
        for mine, theirs in zip(rest, whole[7:], strict=True):
            assert np.array_equal(mine.frame, theirs.frame)  # type: ignore[arg-type]


@pytest.mark.parametrize("muxer", ["mpegts", "mp4", "matroska"])
def test_damage_is_counted_or_refused_when_strict(muxer: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a", Clip(muxer=muxer, frames=12, options={"g": "4"}))
    content = bytearray(path.read_bytes())
    hole = content.index(b"mdat") + 2000 if muxer == "mp4" else len(content) // 2
    content[hole : hole + 600] = bytes(600)
    path.write_bytes(content)
    with Decoder(path, DecodeOptions(LIMITS)) as decoder:
        list(decoder)
        found = decoder.summary
    assert found is not None
    assert found.frames >= 6
    assert found.corrupt + found.corrupt_packets + found.decode_errors > 0
    with pytest.raises(UnusableMedia, match="strict"):
        decode(path, strict=True)
