"""Videos that are cut, flipped, or lie."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
from PIL import Image

from tests.corpus.avi import avi
from tests.corpus.hostile import jpeg
from tests.corpus.item import Item
from tests.server.media.clips import Clip, write_clip, write_clip_with_cover, write_sound_only

CONTAINERS: dict[str, Clip] = {
    "mp4": Clip(frames=12),
    "mp4 with the index first": Clip(frames=12, movflags="faststart"),
    "fragmented mp4": Clip(frames=12, movflags="frag_every_frame+empty_moov+default_base_moof"),
    "matroska": Clip(frames=12, muxer="matroska"),
    "webm": Clip(frames=12, codec="libvpx", muxer="webm"),
    "ts": Clip(frames=12, muxer="mpegts"),
    "avi": Clip(frames=12, codec="mpeg4", muxer="avi"),
    "gif": Clip(frames=12, codec="gif", pixel_format="rgb8", muxer="gif"),
}
CUTS = (12, 40, 70, 97)
FLIPS = 3


@cache
def whole(kind: str, folder: Path) -> bytes:
    """A good file of a container, made once per folder."""
    return write_clip(folder / "whole", CONTAINERS[kind]).read_bytes()


def flipped(content: bytes, seed: int, bits: int = 6) -> bytes:
    """``content`` with some bits turned over, the same ones for the same seed."""
    chance, changed = random.Random(seed), bytearray(content)
    for _ in range(bits):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(kind: str, percent: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        content = whole(kind, path.parent)
        path.write_bytes(content[: len(content) * percent // 100])

    return make


def _flip(kind: str, seed: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(flipped(whole(kind, path.parent), seed))


def _replaced(kind: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        content = whole(kind, path.parent)
        assert old in content
        path.write_bytes(content.replace(old, new))

    return make


def _gif_of_frames(count: int) -> bytes:
    """The smallest GIF with this many frames."""
    buffer = io.BytesIO()
    Image.new("P", (1, 1)).save(buffer, "GIF")
    content = buffer.getvalue()
    start = content.index(b",")
    control = b"!\xf9\x04\0\x04\0\0\0"
    picture = content[start:-1]
    return content[:start] + (control + picture) * count + b";"


def _many_streams(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as output:
        streams = [output.add_stream("mjpeg", rate=25) for _ in range(200)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        for stream in streams:
            frame = av.VideoFrame(16, 16, "yuvj420p")
            frame.pts, frame.color_range = 0, 2
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Name and all bytes of each box between two places."""
    while start < end:
        size = int.from_bytes(content[start : start + 4], "big")
        yield content[start + 4 : start + 8], content[start : start + size]
        start += size


def _thousands_of_streams(path: Path) -> None:
    """A movie whose one track is there 5,000 times."""
    content = write_clip(path, Clip()).read_bytes()
    whole = dict(_boxes(content, 0, len(content)))
    inside = dict(_boxes(whole[b"moov"], 8, len(whole[b"moov"])))
    inside[b"trak"] *= 5000
    tracks = b"".join(inside.values())
    whole[b"moov"] = (len(tracks) + 8).to_bytes(4, "big") + b"moov" + tracks
    path.write_bytes(b"".join(whole.values()))


def _large_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    content = bytearray(jpeg(9))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def _clip(**values: object) -> Callable[[Path], object]:
    return lambda path: write_clip(path, Clip(**values))  # type: ignore[arg-type]


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _absurd_duration(path: Path) -> None:
    """A movie header that promises centuries."""
    content = bytearray(write_clip(path, Clip()).read_bytes())
    for name, offset in ((b"mvhd", 20), (b"mdhd", 20)):
        place = content.index(name) + offset
        content[place : place + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(content)


def _lies() -> dict[str, Callable[[Path], object]]:
    return {
        "sound only": write_sound_only,
        "cover only": lambda path: write_clip_with_cover(path, videos=0),
        "no frames": _clip(muxer="matroska", frames=0),
        "200 streams": _many_streams,
        "5000 streams": _thousands_of_streams,
        "a million frames a second": _clip(time_base=Fraction(1, 1_000_000)),
        "three frames in a day": _clip(frames=3, pts=[0, 1, 25 * 86_400]),
        "centuries": _absurd_duration,
        "5000 frames of a gif": _bytes(_gif_of_frames(5000)),
        "a frame of 16384x8704": _bytes(avi([_large_jpeg(16384, 8704)], 16384, 8704)),
        "a frame larger than its container says": _bytes(avi([_large_jpeg(16384, 8704)])),
        "avi of nothing": _bytes(avi([])),
        "avi of empty frames": _bytes(avi([b"", b""])),
        "sample description of nobody": _replaced("mp4", b"avc1", b"xxxx"),
        "no sample table": _replaced("mp4", b"stbl", b"xxxx"),
        "no sample sizes": _replaced("mp4", b"stsz", b"xxxx"),
        "no chunk offsets": _replaced("mp4", b"stco", b"xxxx"),
        "no index": _replaced("mp4", b"moov", b"free"),
        "no decoder configuration": _replaced("mp4", b"avcC", b"free"),
        "magic only, mp4": _bytes(b"\0\0\0\x18ftypisom\0\0\2\0isommp41"),
        "magic only, matroska": _bytes(b"\x1aE\xdf\xa3\x80"),
        "magic only, gif": _bytes(b"GIF89a"),
        "magic only, avi": _bytes(b"RIFF\xff\xff\xff\xffAVI "),
        "magic only, ts": _bytes(b"G" + bytes(187)),
        "empty boxes without end": _bytes(b"\0\0\0\x08free" * 50_000),
        "nested boxes": _bytes(_nested(200)),
        "matroska of another codec": _replaced("matroska", b"V_MPEG4/ISO/AVC", b"V_MS/VFW/FOURCC"),
        "matroska of an unknown document": _replaced("matroska", b"matroska", b"mat_oska"),
    }


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = (len(content) + 8).to_bytes(4, "big") + b"moov" + content
    return b"\0\0\0\x10ftypisom\0\0\0\0" + content


def items() -> list[Item]:
    cuts = [
        Item(f"cut video/{kind} at {percent} %", "decode", _cut(kind, percent))
        for kind in CONTAINERS
        for percent in CUTS
    ]
    flips = [
        Item(f"flipped video/{kind} {seed}", "decode", _flip(kind, seed))
        for kind in CONTAINERS
        for seed in range(FLIPS)
    ]
    lies = [Item(f"lying video/{name}", "decode", make) for name, make in _lies().items()]
    return cuts + flips + lies
