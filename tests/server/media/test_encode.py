from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.frames import Nv12
from server.media.colour import Colour
from server.media.encode import EncodeOptions, Encoder
from server.media.errors import Cancelled, CodecUnavailable, DiskFull, EncodeError
from server.media.resample import area_resize
from tests.server.media.clips import pattern, read_clip


def options(**changes: object) -> EncodeOptions:
    values: dict[str, object] = {
        "codec": "libx264",
        "container": "mkv",
        "frame_format": "rgb24",
        "width": 64,
        "height": 48,
        "out_width": 64,
        "out_height": 48,
        "time_base": Fraction(1, 25),
        "rate": Fraction(25),
        "colour": Colour().resolved(48),
        "quality": 1,
    }
    return EncodeOptions(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_nv12_planes_are_written_as_they_are(codec: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    luma = np.repeat(np.repeat(random.integers(16, 235, (6, 8), np.uint8), 8, 0), 8, 1)
    chroma = np.full((24, 32, 2), (90, 200), np.uint8)
    path = tmp_path / "a.mkv"
    with Encoder(options(codec=codec, frame_format="nv12"), None, path) as encoder:
        for index in range(3):
            encoder.put(Nv12(luma, chroma), index, 1)
        assert encoder.finish().frames == 3
    frame = read_clip(path).frames[2].to_ndarray(format="yuv420p")
    assert np.abs(frame[:48].astype(int) - luma).mean() < 2
    assert np.abs(frame[48:60].astype(int) - 90).max() <= 2
    assert np.abs(frame[60:].astype(int) - 200).max() <= 2


def test_another_size_is_the_mean_over_each_footprint(tmp_path: Path) -> None:
    luma = np.repeat(np.repeat(pattern(8, 6, 0)[..., 1], 8, 0), 8, 1) // 2 + 40
    frame = Nv12(luma, np.full((24, 32, 2), (90, 200), np.uint8))
    path = tmp_path / "a.mkv"
    changes = options(frame_format="nv12", out_width=48, out_height=36, quality=0)
    with Encoder(changes, None, path) as encoder:
        encoder.put(frame, 0, 1)
        encoder.finish()
    planes = read_clip(path).frames[0].to_ndarray(format="yuv420p")
    assert np.abs(planes[:36].astype(int) - area_resize(luma, 36, 48)).max() <= 3
    assert set(np.unique(planes[36:45])) <= {89, 90, 91}


def test_a_repeated_frame_is_the_previous_one_at_another_moment(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with Encoder(options(), None, path) as encoder:
        encoder.put(pattern(64, 48, 0), 0, 1)
        encoder.repeat(5, 1)
        encoder.put(pattern(64, 48, 3), 6, 1)
        summary = encoder.finish()
    assert summary.frames == summary.packets == 3
    read = read_clip(path)
    assert read.seconds == [0, Fraction(1, 5), Fraction(6, 25)]
    pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in read.frames]
    assert np.abs(pictures[0] - pictures[1]).mean() < 3
    assert np.abs(pictures[1] - pictures[2]).mean() > 20


def test_only_a_few_repetitions_wait_for_an_encoder_that_is_behind(tmp_path: Path) -> None:
    behind = False

    def check() -> None:
        if behind:
            raise Cancelled

    with Encoder(options(), None, tmp_path / "a.mkv", check) as encoder:
        encoder.put(pattern(64, 48, 0), 0, 1)
        for number in range(1, 200):
            encoder.repeat(number, 1)
        os.kill(encoder.pid, signal.SIGSTOP)
        behind = True
        sent = 200
        with pytest.raises(Cancelled):  # noqa: PT012
            for sent in range(200, 400):
                encoder.repeat(sent, 1)
        behind = False
        os.kill(encoder.pid, signal.SIGCONT)
        assert sent < 250
        assert encoder.finish().frames == sent


TIMES_OF_SHORT_VIDEOS = """
import io, json, sys
from fractions import Fraction
import av
from server.media.codecs import encoder_options, find_codec
from server.media.colour import Colour
from server.media.encoding import EncoderSpec, PictureEncoder, PictureSpec, Timings

av.logging.set_level(None)
picture = PictureSpec("rgb24", 64, 64, 64, 64, Colour().resolved(64), None, None)
codec, found = find_codec("libx265"), []
options = encoder_options(codec, quality=None, preset=None, pace="file", gop_frames=9)
spec = EncoderSpec(codec.encoder, options, Fraction(1, 1000), Fraction(25), False)
for count in (1, 2, 3):
    output = av.open(io.BytesIO(), "w", format="matroska")
    encoder = PictureEncoder(output, spec, picture, Timings())
    output.start_encoding()
    packets = []
    for number in range(count):
        packets += encoder.encode(memoryview(bytes(64 * 64 * 3)), number * 40, 40)
    packets += encoder.flush()
    output.mux(packets)
    found.append([(packet.pts, packet.dts) for packet in packets])
print(json.dumps(found))
"""


def test_one_and_two_frames_of_hevc_have_times_whatever_was_in_memory() -> None:
    # What the allocator gives out is filled with a pattern, as memory that was used before is.
    answer = subprocess.run(
        [sys.executable, "-c", TIMES_OF_SHORT_VIDEOS],
        env={**os.environ, "MALLOC_PERTURB_": "85"},
        stdout=subprocess.PIPE,
        check=True,
    )
    one, two, three = json.loads(answer.stdout)
    assert (one, two) == ([[0, 0]], [[0, 0], [40, 40]])
    assert sorted(pts for pts, _ in three) == [0, 40, 80]
    stamps = [dts for _, dts in three]
    assert stamps == sorted(set(stamps))
    assert all(dts <= pts for pts, dts in three)


@pytest.mark.parametrize(("codec", "enough"), [("libx264", 20), ("libx265", 26), ("libsvtav1", 36)])
def test_a_stream_begins_before_its_second_key_frame_with_every_time_right(
    codec: str, enough: int, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    changes = options(codec=codec, container="mp4", quality=30, rate=Fraction(50))
    with Encoder(changes, None, writing) as encoder, os.fdopen(reading, "rb", 0) as pipe:
        os.close(writing)
        for index in range(enough):
            encoder.put(pattern(64, 48, index), index, 1)
        assert select.select([pipe], [], [], 60)[0], "it waits for more frames"
        video = bytearray(pipe.read(65536))
        for index in range(enough, 60):
            encoder.put(pattern(64, 48, index), index, 1)
        assert encoder.finish().frames == 60
        while data := pipe.read(65536):
            video += data
    (tmp_path / "a.mp4").write_bytes(video)
    assert read_clip(tmp_path / "a.mp4").seconds == [Fraction(index, 25) for index in range(60)]


def test_a_full_disk_and_a_dead_encoder_are_typed_errors(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space"), full_disk() as encoder:  # noqa: PT012
        for index in range(80):
            encoder.put(
                np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8), index, 1
            )
        encoder.finish()
    with Encoder(options(), None, tmp_path / "a.mkv") as encoder:
        os.kill(encoder.pid, signal.SIGKILL)
        with pytest.raises(EncodeError, match="SIGKILL"):
            encoder.finish()


def full_disk() -> Encoder:
    return Encoder(options(), None, Path("/dev/full"))


def test_odd_sizes_and_codecs_that_cannot_open_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with pytest.raises(CodecUnavailable, match="must be even"):
        Encoder(options(out_width=33), None, path)
    with pytest.raises(CodecUnavailable, match="use one of"):
        Encoder(options(codec="av1_nvenc"), None, path)
    with pytest.raises(CodecUnavailable, match="choose another"):
        Encoder(options(preset="no such preset"), None, path)
