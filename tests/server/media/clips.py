"""Tiny clips made on the spot, one for everything that must be accepted or refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Clip:
    """What to make. ``colour`` fills every frame (RGB); None draws a moving pattern."""

    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    muxer: str = "mp4"
    width: int = 32
    height: int = 24
    frames: int = 6
    time_base: Fraction = Fraction(1, 25)
    pts: Sequence[int] | None = None
    audio: Sequence[str] = ()
    colour: tuple[int, int, int] | None = None
    matrix: int = 2
    full_range: bool = False
    primaries: int = 2
    transfer: int = 2
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    options: dict[str, str] = field(default_factory=dict)
    movflags: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    still: bool = False
    """All frames alike."""


def pattern(width: int, height: int, index: int) -> np.ndarray:
    """A picture with edges and a gradient that moves with ``index``; (H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    red = (x * 8 + index * 24) % 256
    green = (y * 10) % 256
    blue = np.where((x // 4 + y // 4 + index) % 2 == 0, 200, 40)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def write_clip(path: Path, clip: Clip) -> Path:
    """Encodes ``clip`` into ``path`` and returns it."""
    try:
        return _write(path, clip)
    finally:
        # SVT-AV1 moves root's calling thread to real-time scheduling; what this process starts
        # afterwards would inherit that and starve the machine.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _write(path: Path, clip: Clip) -> Path:
    options = {"movflags": clip.movflags} if clip.movflags else {}
    with av.open(str(path), "w", format=clip.muxer, container_options=options) as output:
        stream = _video_stream(output, clip)
        sounds = [_sound_stream(output, codec, n) for n, codec in enumerate(clip.audio)]
        output.metadata.update(clip.metadata)
        output.start_encoding()
        for index in range(clip.frames):
            output.mux(stream.encode(_frame(clip, index)))
        output.mux(stream.encode(None))
        for number, sound in enumerate(sounds):
            _write_sound(output, sound, number)
    return path


def _video_stream(output, clip: Clip):
    rate = max(round(1 / clip.time_base), 1) if clip.pts is None else 25
    stream = output.add_stream(clip.codec, rate=rate)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = clip.width, clip.height, clip.pixel_format
    context.time_base = clip.time_base
    stream.time_base = clip.time_base
    context.thread_count = 1
    fast = {
        "libx264": {"preset": "ultrafast", "crf": "4"},
        "libx265": {"preset": "ultrafast", "crf": "4", "x265-params": "log-level=none"},
        "libsvtav1": {"preset": "11", "crf": "4", "svtav1-params": "lp=1"},
        "libvpx": {"deadline": "realtime", "crf": "4", "b": "2M"},
        "libvpx-vp9": {"deadline": "realtime", "crf": "4", "b": "2M"},
        "mjpeg": {"q": "2"},
    }.get(clip.codec, {})
    context.options = fast | clip.options
    if clip.codec in ("mpeg4", "mpeg2video", "mjpeg"):
        context.bit_rate = 4_000_000
    context.colorspace, context.color_primaries = clip.matrix, clip.primaries
    context.color_trc, context.color_range = clip.transfer, 2 if clip.full_range else 1
    if clip.sample_aspect_ratio is not None:
        context.sample_aspect_ratio = clip.sample_aspect_ratio
    if clip.display_matrix is not None:
        stream.set_display_matrix(clip.display_matrix)
    return stream


def _frame(clip: Clip, index: int) -> VideoFrame:
    if clip.colour is None:
        picture = pattern(clip.width, clip.height, 0 if clip.still else index)
    else:
        picture = np.empty((clip.height, clip.width, 3), np.uint8)
        picture[...] = clip.colour
    matrix = {1: 1, 9: 9}.get(clip.matrix, 5)
    frame = VideoFrame.from_ndarray(picture, "rgb24")
    if clip.pixel_format not in ("rgb8", "bgra", "gbrp"):
        frame = frame.reformat(
            format=clip.pixel_format,
            dst_colorspace=matrix,
            src_color_range=2,
            dst_color_range=2 if clip.full_range else 1,
        )
        frame.colorspace = clip.matrix
        frame.color_range = 2 if clip.full_range else 1
        frame.color_primaries, frame.color_trc = clip.primaries, clip.transfer
    else:
        frame = frame.reformat(format=clip.pixel_format)
    frame.pts = index if clip.pts is None else clip.pts[index]
    frame.time_base = clip.time_base
    return frame


def _sound_stream(output, codec: str, number: int):
    stream = output.add_stream(codec, rate=48000)
    stream.layout = "stereo"
    stream.metadata["language"] = ("eng", "jpn", "deu")[number % 3]
    return stream


def _write_sound(output, stream, number: int) -> None:
    time = np.arange(48000 // 4) / 48000
    wave = (np.sin(time * 2 * np.pi * 440 * (number + 1)) * 8000).astype(np.int16)
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(stream.format, "stereo", 48000, size)
    frame = av.AudioFrame.from_ndarray(
        np.stack([wave, wave]).T.reshape(1, -1).copy(), "s16", "stereo"
    )
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        output.mux(stream.encode(part))
    output.mux(stream.encode(None))


@dataclass(frozen=True)
class Read:
    """A video read back."""

    frames: list[VideoFrame]
    seconds: list[Fraction]
    streams: list[tuple[str, str]]
    payloads: dict[int, list[bytes]]
    """Audio packets per stream, in order."""


def read_clip(path: Path) -> Read:
    """Decodes the first video stream and collects every audio packet."""
    with av.open(str(path)) as source:
        streams = [
            (s.type, s.codec_context.name if s.codec_context else "") for s in source.streams
        ]
        video = source.streams.video[0]
        frames = list(source.decode(video))
    payloads: dict[int, list[bytes]] = {}
    with av.open(str(path)) as source:
        if source.streams.audio:
            for packet in source.demux(*source.streams.audio):
                if packet.size:
                    payloads.setdefault(packet.stream_index, []).append(bytes(packet))
    return Read(frames, [f.pts * f.time_base for f in frames], streams, payloads)


def write_rich_clip(path: Path) -> Path:
    """A Matroska file with sound, subtitle, attachment, chapters and tags."""
    clip, milliseconds = Clip(), Fraction(1, 1000)
    with av.open(str(path), "w", format="matroska") as output:
        video = _video_stream(output, clip)
        sound = _sound_stream(output, "aac", 1)
        words = output.add_mux_stream("subrip")
        words.time_base = milliseconds
        output.add_attachment("letters.ttf", "font/ttf", b"FONTDATA" * 4)
        output.metadata["title"] = "Hello"
        output.set_chapters(
            [
                {
                    "id": number,
                    "start": start,
                    "end": end,
                    "time_base": milliseconds,
                    "metadata": {"title": title},
                }
                for number, (start, end, title) in enumerate([(0, 100, "One"), (100, 240, "Two")])
            ]
        )
        for index in range(clip.frames):
            output.mux(video.encode(_frame(clip, index)))
        output.mux(video.encode(None))
        _write_sound(output, sound, 1)
        packet = av.Packet(b"hello world")
        packet.stream, packet.time_base = words, milliseconds
        packet.pts, packet.dts, packet.duration = 40, 40, 100
        output.mux(packet)
    return path


def write_sound_only(path: Path) -> Path:
    """An MP4 without a picture."""
    with av.open(str(path), "w", format="mp4") as output:
        _write_sound(output, _sound_stream(output, "aac", 0), 0)
    return path


def write_encrypted_clip(path: Path) -> Path:
    """An MP4 with Common Encryption."""
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    clip = Clip()
    with av.open(str(path), "w", format="mp4", container_options=options) as output:
        stream = _video_stream(output, clip)
        for index in range(clip.frames):
            output.mux(stream.encode(_frame(clip, index)))
        output.mux(stream.encode(None))
    return path


def write_clip_with_cover(path: Path, *, videos: int) -> Path:
    """An MP4 with sound, ``videos`` video streams and a cover picture."""
    with av.open(str(path), "w", format="mp4") as output:
        clips = [Clip(width=32 + 16 * number) for number in range(videos)]
        streams = [_video_stream(output, clip) for clip in clips]
        sound = _sound_stream(output, "aac", 0)
        cover = output.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 16, 16, "yuvj420p", 0x400
        for clip, stream in zip(clips, streams, strict=True):
            for index in range(clip.frames):
                output.mux(stream.encode(_frame(clip, index)))
            output.mux(stream.encode(None))
        _write_sound(output, sound, 0)
        picture = VideoFrame(16, 16, "yuvj420p")
        picture.pts, picture.color_range = 0, 2
        output.mux(cover.encode(picture))
        output.mux(cover.encode(None))
    return path
