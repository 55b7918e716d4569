"""Videos that are unusual and good: each must come out whole."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from tests.corpus.item import Item
from tests.server.media.clips import (
    Clip,
    read_clip,
    write_clip,
    write_clip_with_cover,
    write_encrypted_clip,
    write_rich_clip,
)

_VFR = {"time_base": Fraction(1, 90000), "pts": [0, 3003, 7000, 7100, 20000, 25001]}
_TURN = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
_MIRROR = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)

CLIPS: dict[str, Clip] = {
    "h264 in mp4 with sound": Clip(audio=("aac",)),
    "h264 in mov": Clip(muxer="mov", audio=("pcm_s16le",)),
    "h264 in matroska": Clip(muxer="matroska"),
    "h264 in ts": Clip(muxer="mpegts", audio=("aac",)),
    "fragmented mp4": Clip(movflags="frag_keyframe+empty_moov+delay_moov", audio=("aac",)),
    "fragmented mp4 without delay_moov": Clip(
        movflags="frag_keyframe+empty_moov", options={"bf": "2", "preset": "fast"}
    ),
    "mp4 with the index first": Clip(movflags="faststart"),
    "hevc": Clip(codec="libx265"),
    "av1": Clip(codec="libsvtav1", width=64, height=64, frames=3),
    "vp8": Clip(codec="libvpx", muxer="webm", audio=("libopus",)),
    "vp9": Clip(codec="libvpx-vp9", muxer="webm"),
    "mpeg-4 in avi": Clip(codec="mpeg4", muxer="avi", audio=("mp3",)),
    "mpeg-4 with b-frames in avi": Clip(codec="mpeg4", muxer="avi", options={"bf": "2"}),
    "mpeg-2 in ts": Clip(codec="mpeg2video", muxer="mpegts", audio=("mp2",)),
    "mjpeg in avi": Clip(codec="mjpeg", pixel_format="yuvj422p", muxer="avi", full_range=True),
    "prores in mov": Clip(codec="prores_ks", pixel_format="yuv422p10le", muxer="mov", frames=2),
    "gif": Clip(
        codec="gif",
        pixel_format="rgb8",
        muxer="gif",
        time_base=Fraction(1, 100),
        pts=[0, 4, 8, 20, 24, 28],
    ),
    "variable rate": Clip(**_VFR),
    "variable rate with b-frames": Clip(**_VFR, options={"bf": "2", "preset": "fast"}),
    "variable rate in matroska": Clip(**_VFR, muxer="matroska"),
    "late start": Clip(time_base=Fraction(1, 90000), pts=range(45001, 63001, 3000)),
    "negative decoding times": Clip(options={"bf": "3", "preset": "fast"}, frames=8),
    "open groups of pictures": Clip(
        options={"bf": "2", "preset": "fast", "x264-params": "open-gop=1:keyint=4"}, frames=12
    ),
    "gradual refresh": Clip(
        options={"preset": "fast", "x264-params": "intra-refresh=1:keyint=5"}, frames=12
    ),
    "interlaced": Clip(options={"preset": "fast", "x264-params": "tff=1"}, height=32),
    "several slices": Clip(options={"x264-params": "slices=3"}, height=64),
    "odd size": Clip(width=33, height=17, codec="libvpx-vp9", muxer="webm"),
    "odd size with full chroma": Clip(width=17, height=11, pixel_format="yuv444p"),
    "one pixel": Clip(width=1, height=1, frames=1, pixel_format="yuv444p"),
    "one row": Clip(width=64, height=1, frames=2, pixel_format="yuv444p"),
    "one frame": Clip(frames=1),
    "wide pixels": Clip(sample_aspect_ratio=Fraction(4, 3)),
    "turned": Clip(display_matrix=_TURN),
    "mirrored": Clip(display_matrix=_MIRROR),
    "4:2:2": Clip(pixel_format="yuv422p"),
    "rgb": Clip(codec="libx264rgb", pixel_format="rgb24"),
    "full range": Clip(full_range=True, matrix=1, primaries=1, transfer=1),
    "120 frames a second": Clip(time_base=Fraction(1, 120)),
    "a frame every ten seconds": Clip(time_base=Fraction(10), frames=4),
    "three sounds": Clip(muxer="matroska", audio=("aac", "libopus", "flac")),
    "all frames alike": Clip(still=True),
    "ten bits": Clip(pixel_format="yuv420p10le"),
    "hdr": Clip(transfer=16, primaries=9, matrix=9),
    "alpha": Clip(codec="libvpx-vp9", pixel_format="yuva420p", muxer="webm"),
    "a codec that is not supported": Clip(codec="ffv1", muxer="matroska"),
}


def _tags_of_another_alphabet(path: Path) -> None:
    clip = Clip(muxer="matroska", metadata={"title": "XXXX title XXXX"})
    content = write_clip(path, clip).read_bytes()
    path.write_bytes(content.replace(b"XXXX", b"\xff\xfe\xe9\x80"))


def _start_between_key_frames(path: Path) -> None:
    """A transport stream whose first key frame is missing."""
    clip = Clip(muxer="mpegts", options={"x264-params": "keyint=4:scenecut=0"}, frames=12)
    content = write_clip(path, clip).read_bytes()
    packets = [content[place : place + 188] for place in range(0, len(content), 188)]
    first_video = next(index for index, p in enumerate(packets) if p[1] & 0x1F == 1 and p[1] & 0x40)
    later = next(
        index
        for index, p in enumerate(packets)
        if index > first_video and p[1] & 0x40 and p[1] & 0x1F == 1
    )
    path.write_bytes(b"".join(packets[:first_video] + packets[later:]))


def _with_time_codes(path: Path) -> None:
    """M2TS: packets of 192 bytes."""
    content = write_clip(path, Clip(muxer="mpegts")).read_bytes()
    path.write_bytes(
        b"".join(bytes(4) + content[place : place + 188] for place in range(0, len(content), 188))
    )


def _two_resolutions(path: Path) -> None:
    small = write_clip(path, Clip(muxer="mpegts")).read_bytes()
    large = write_clip(path, Clip(muxer="mpegts", width=64, height=48)).read_bytes()
    path.write_bytes(small + large)


def _rubbish_behind(path: Path) -> None:
    path.write_bytes(write_clip(path, Clip()).read_bytes() + b"rubbish!" * 40)


def _starts_with_sound(path: Path) -> None:
    write_clip(path, Clip(time_base=Fraction(1, 1000), pts=range(200, 440, 40), audio=("aac",)))
    assert read_clip(path).seconds[0] == Fraction(1, 5)


def _trimmed(path: Path) -> None:
    """An edit list that shows four of ten frames, from the fourth on."""
    content = bytearray(write_clip(path, Clip(frames=10, audio=("aac",))).read_bytes())
    place = content.index(b"elst") + 12
    start = int.from_bytes(content[place + 4 : place + 8], "big") + 3 * 512
    content[place : place + 8] = (160).to_bytes(4, "big") + start.to_bytes(4, "big")
    path.write_bytes(content)
    assert len(read_clip(path).seconds) == 4


MADE = {
    "sound, subtitle, attachment and chapters": write_rich_clip,
    "two videos, sound and a cover": lambda path: write_clip_with_cover(path, videos=2),
    "tags that are not utf-8": _tags_of_another_alphabet,
    "no key frame at the start": _start_between_key_frames,
    "packets with time codes": _with_time_codes,
    "rubbish behind the end": _rubbish_behind,
    "sound before the picture": _starts_with_sound,
    "trimmed by an edit list": _trimmed,
    "resolution switches": _two_resolutions,
    "encrypted": write_encrypted_clip,
}


def items() -> list[Item]:
    def writer(clip: Clip):
        return lambda path: write_clip(path, clip)

    return [
        *(Item(f"odd video/{name}", "session", writer(clip)) for name, clip in CLIPS.items()),
        *(Item(f"odd video/{name}", "session", make) for name, make in MADE.items()),
    ]
