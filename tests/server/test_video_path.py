"""Video through device memory, and the host's way where that is not possible.

The device is a fake (``tests.server.host_device``): nothing here has seen a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler
from server.manifest import Manifest
from server.media.decode import DecodeOptions, Decoder
from server.media.errors import CodecUnavailable, EncodeError, UnusableMedia
from server.media.limits import command_line_limits
from server.media.nvidia_codecs import NvidiaCodecs
from server.session import decode_options, encode_options, upscale_video
from server.video_options import VideoOptions
from server.video_path import Job, find_device
from tests.server.host_device import HostDevice, SoftwareCodecs
from tests.server.media.clips import Clip, Read, read_clip, write_clip

NVENC = VideoOptions(codec="h264_nvenc")
MOVING = Clip(
    width=48,
    height=36,
    frames=9,
    time_base=Fraction(1, 90000),
    pts=[0, 3003, 7000, 7100, 20000, 25001, 28000, 31000, 34567],
    audio=("aac",),
    matrix=1,
    options={"bf": "2", "g": "4"},
)


@pytest.fixture
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(HostDevice()) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "source.mp4", MOVING)


def luma(clip: Read) -> np.ndarray:
    """Y of every frame, brought down to the source's size."""
    return np.stack([frame.to_ndarray(format="nv12")[:144:4, ::4] for frame in clip.frames])


def run(source: Path, output: Path, upscaler: Upscaler, options: VideoOptions = NVENC) -> Manifest:
    return upscale_video(source, output, upscaler, options, device_codecs=SoftwareCodecs())


@pytest.mark.parametrize(("codec", "container"), [("h264_nvenc", "mp4"), ("hevc_nvenc", "mkv")])
def test_every_frame_moment_and_sound_survives_in_device_memory(
    codec: str, container: str, source: Path, tmp_path: Path, upscaler: Upscaler
) -> None:
    output = tmp_path / f"output.{container}"
    manifest = run(source, output, upscaler, VideoOptions(codec=codec))
    before, after = read_clip(source), read_clip(output)
    assert manifest.frame_memory == {
        "decode": "NVDEC, device memory",
        "encode": "NVENC, device memory",
    }
    assert manifest.frames_in == manifest.frames_out == manifest.frames_encoded == MOVING.frames
    assert list(after.payloads.values()) == list(before.payloads.values())
    assert {(f.width, f.height) for f in after.frames} == {(192, 144)}
    if container == "mp4":
        assert after.seconds == before.seconds
    host = tmp_path / "host.mkv"
    upscale_video(source, host, upscaler, VideoOptions(quality=4))
    difference = luma(after).astype(int) - luma(read_clip(host))
    assert np.abs(difference).mean() < 1.5
    assert after.frames[0].colorspace == 1
    assert list(tmp_path.glob(".*")) == []


def test_a_stream_and_a_cut_are_those_of_the_host(
    source: Path, tmp_path: Path, upscaler: Upscaler
) -> None:
    chunks: list[bytes] = []

    class Sink:
        def write(self, data: bytes, /) -> None:
            chunks.append(bytes(data))

    options = VideoOptions(codec="h264_nvenc", start_seconds=0.2, end_seconds=0.35)
    manifest = upscale_video(source, Sink(), upscaler, options, device_codecs=SoftwareCodecs())
    (tmp_path / "cut.mp4").write_bytes(b"".join(chunks))
    host = upscale_video(
        source, tmp_path / "host.mp4", upscaler, VideoOptions(start_seconds=0.2, end_seconds=0.35)
    )
    assert read_clip(tmp_path / "cut.mp4").seconds == read_clip(tmp_path / "host.mp4").seconds
    assert (manifest.frames_in, manifest.frames_skipped) == (host.frames_in, host.frames_skipped)
    assert manifest.pts_sha256 == host.pts_sha256


@pytest.mark.parametrize(
    "codecs",
    [
        SoftwareCodecs(no_decoder=CodecUnavailable("FFmpeg's h264 decoder knows no NVDEC")),
        SoftwareCodecs(no_planes=ValueError("NVDEC gave a frame in nv12, not in device memory")),
        SoftwareCodecs(no_planes=UnusableMedia("The colour tags change", code="colour_changed")),
    ],
)
def test_frames_that_nvdec_does_not_decode_come_from_the_host(
    codecs: SoftwareCodecs, source: Path, tmp_path: Path, upscaler: Upscaler
) -> None:
    manifest = upscale_video(source, tmp_path / "output.mp4", upscaler, NVENC, device_codecs=codecs)
    assert manifest.frame_memory["decode"] == "host"
    assert manifest.frame_memory["encode"] == "NVENC, device memory"
    assert "NVDEC" in manifest.frame_memory["reason"]
    assert read_clip(tmp_path / "output.mp4").seconds == read_clip(source).seconds


def job_of(source: Path, upscaler: Upscaler, options: VideoOptions, codecs: object) -> Job:
    with Decoder(source, DecodeOptions(command_line_limits(), formats=options.formats)) as decoder:
        info = decoder.info
    encode = encode_options(info, options, "mp4")
    decode = decode_options(options)
    return Job(source, info, decode, encode, upscaler, lambda: None, codecs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "codecs", "reason"),
    [
        (NVENC, SoftwareCodecs(), ""),
        (VideoOptions(), SoftwareCodecs(), "libx264 reads frames of the host"),
        (VideoOptions(codec="av1_nvenc"), SoftwareCodecs(), "av1_nvenc reads frames of the host"),
        (VideoOptions(codec="h264_nvenc", height=72), SoftwareCodecs(), "resized on the host"),
        (VideoOptions(codec="h264_nvenc", formats=("rgb24",)), SoftwareCodecs(), "rgb24 frames"),
        (NVENC, SoftwareCodecs(no_encoder=OSError("no NVENC")), "h264_nvenc does not open"),
        # What a machine without a GPU really says.
        (NVENC, NvidiaCodecs(), "h264_nvenc takes no device memory"),
    ],
)
def test_why_frames_are_on_the_host_is_said(
    options: VideoOptions, codecs: object, reason: str, source: Path, upscaler: Upscaler
) -> None:
    device, found = find_device(job_of(source, upscaler, options, codecs))
    assert reason in found
    assert (device is None) == bool(reason)


def test_a_backend_without_device_memory_and_large_frames_use_the_host(source: Path) -> None:
    job = job_of(source, Upscaler(NearestBackend()), NVENC, SoftwareCodecs())
    assert find_device(job) == (None, "nearest keeps frames on the host")
    job = job_of(source, Upscaler(HostDevice(), max_pixels=1000), NVENC, SoftwareCodecs())
    assert find_device(job) == (None, "48x36 frames go through in strips")


def test_the_host_is_the_way_of_every_other_video(
    source: Path, tmp_path: Path, upscaler: Upscaler
) -> None:
    manifest = upscale_video(source, tmp_path / "output.mp4", upscaler)
    assert manifest.frame_memory == {
        "decode": "host",
        "encode": "host",
        "reason": "libx264 reads frames of the host",
    }


def test_damage_is_counted_and_refused_when_strict(
    source: Path, tmp_path: Path, upscaler: Upscaler
) -> None:
    data = bytearray(source.read_bytes())
    start = data.index(b"mdat") + 4
    damaged = slice(start + 6 * len(data) // 16, start + 9 * len(data) // 16)
    data[damaged] = bytes(len(data[damaged]))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    manifest = run(broken, tmp_path / "output.mp4", upscaler)
    assert manifest.frames_in == manifest.frames_encoded
    assert manifest.frames_in < MOVING.frames or manifest.decode_errors or manifest.corrupt_frames
    strict = VideoOptions(codec="h264_nvenc", strict=True)
    with pytest.raises(UnusableMedia, match="strict was asked for"):
        run(broken, tmp_path / "strict.mp4", upscaler, strict)
    assert not (tmp_path / "strict.mp4").exists()


def test_an_encoder_that_fails_later_is_an_error_and_leaves_nothing(
    source: Path, tmp_path: Path, upscaler: Upscaler
) -> None:
    class FailsLater(SoftwareCodecs):
        def open_encoder(self, *arguments):  # type: ignore[no-untyped-def]
            encoding = super().open_encoder(*arguments)
            if len(self.opened) == 1:  # the trial
                return encoding

            class Failing:
                def encode(self, frame, pts, duration):  # type: ignore[no-untyped-def]
                    if pts > 7000:
                        raise OSError("the encoder was lost")
                    return encoding.encode(frame, pts, duration)

            return Failing()

    output = tmp_path / "output.mp4"
    with pytest.raises(EncodeError, match="NVENC failed"):
        upscale_video(source, output, upscaler, NVENC, device_codecs=FailsLater())
    assert not output.exists()
