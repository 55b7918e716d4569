"""Hostile and damaged pictures cost one child process and nothing else."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.media.errors import MediaError, OverLimit, UnsupportedMedia, UnusableMedia
from server.media.picture_modes import decode_picture
from server.media.pictures import PictureLimits
from server.media.sandbox import what_holds
from server.picture_decoder import PictureDecoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    with PictureDecoder() as decoder:
        yield decoder


def noise(height: int = 24, width: int = 24) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def saved(format: str, height: int = 24, width: int = 24, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(height, width)).save(buffer, format, **options)
    return buffer.getvalue()


FORMATS = {name: saved(name) for name in ("PNG", "JPEG", "WEBP")}

PNG_BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 65_535, 65_535, 8, 2, 0, 0, 0)
JPEG_BOMB = b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 64_250, 64_250) + b"\x03" + bytes(9)
WEBP_BOMB = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\xff\xff\xff\xff\xff" + bytes(8)


@pytest.mark.parametrize("bomb", [PNG_BOMB, JPEG_BOMB, WEBP_BOMB])
def test_a_pixel_bomb_is_refused_by_its_header_alone(bomb: bytes) -> None:
    before = psutil.Process().memory_info().rss
    with pytest.raises(OverLimit, match="pixels") as caught:
        decode_picture(io.BytesIO(bomb + bytes(64)), PictureLimits())
    assert caught.value.status == 422
    assert (caught.value.actual or 0) > (caught.value.limit or 0)
    assert psutil.Process().memory_info().rss - before < 32 * 2**20


@pytest.mark.parametrize("pixels", [24 * 24 - 1, 24 * 24])
def test_the_pixel_limit_is_exact(decoder: PictureDecoder, pixels: int) -> None:
    limits = PictureLimits(max_pixels=pixels)
    if pixels == 24 * 24:
        assert decoder.decode(FORMATS["PNG"], limits).width == 24
    else:
        with pytest.raises(OverLimit) as caught:
            decoder.decode(FORMATS["PNG"], limits)
        assert (caught.value.limit, caught.value.actual) == (pixels, 24 * 24)


def test_too_many_bytes_are_413(decoder: PictureDecoder) -> None:
    with pytest.raises(OverLimit) as caught:
        decoder.decode(FORMATS["PNG"], PictureLimits(max_bytes=100))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"hello, world", b"<svg xmlns='x'/>", b"%PDF-1.4", b"BM" + bytes(60)]
)
def test_what_is_no_picture_is_415(decoder: PictureDecoder, body: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        decoder.decode(body)


def test_a_gif_is_a_video_here(decoder: PictureDecoder) -> None:
    with pytest.raises(UnsupportedMedia, match="video"):
        decoder.decode(saved("GIF"))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_refused_and_not_cut_to_one_frame(
    decoder: PictureDecoder, format: str
) -> None:
    frames = [Image.fromarray(noise()), Image.fromarray(255 - noise())]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(UnusableMedia, match="animated"):
        decoder.decode(buffer.getvalue())


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
def test_a_picture_cut_anywhere_is_an_error_or_complete(format: str, data: st.DataObject) -> None:
    whole = FORMATS[format]
    cut = data.draw(st.integers(0, len(whole) - 1))
    limits = PictureLimits()
    try:
        picture = decode_picture(io.BytesIO(whole[:cut]), limits)
    except MediaError:
        return
    complete = decode_picture(io.BytesIO(whole), limits)
    assert np.array_equal(picture.colour, complete.colour), "only the end marker may be missing"


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
def test_flipped_bits_give_a_picture_or_a_media_error(format: str, data: st.DataObject) -> None:
    damaged = bytearray(FORMATS[format])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        picture = decode_picture(io.BytesIO(bytes(damaged)), PictureLimits())
    except MediaError as error:
        message = str(error)
        assert message.endswith(".")
        assert "/" not in message
    else:
        assert picture.colour.size > 0


def test_the_child_gives_what_the_function_gives(decoder: PictureDecoder, tmp_path: Path) -> None:
    path = tmp_path / "no picture by name.txt"
    path.write_bytes(saved("PNG", 40, 30, icc_profile=b"profile" * 9))
    picture = decoder.decode(path)
    assert np.array_equal(picture.colour, noise(40, 30))
    assert picture.icc == b"profile" * 9
    assert picture.colour.flags.owndata
    assert picture.colour.flags.writeable


def test_a_decoder_that_takes_too_long_is_killed(decoder: PictureDecoder) -> None:
    large = saved("PNG", 1500, 1500, compress_level=1)
    with pytest.raises(UnusableMedia, match=r"not decoded within 0\.0") as caught:
        decoder.decode(large, PictureLimits(decode_seconds=0.001))
    assert caught.value.code == "no_progress"
    assert decoder.decode(FORMATS["PNG"]).width == 24


def test_a_broken_installation_is_not_blamed_on_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with PictureDecoder() as decoder, pytest.raises(RuntimeError, match="does not stay alive"):
        decoder.decode(FORMATS["PNG"])


def test_the_warm_process_may_die_between_pictures(decoder: PictureDecoder) -> None:
    decoder.decode(FORMATS["PNG"])
    before = decoder.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    psutil.Process(before).wait(5)
    assert np.array_equal(decoder.decode(FORMATS["PNG"]).colour, noise())
    assert decoder.pid != before


CONFINED = """
import json, os, resource, socket
from server.media.pictures import PictureLimits
from server.picture_child import give_up, limit_process

inherited = os.open("/etc/passwd", os.O_RDONLY)
give_up()
tries = {
    "file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "listing": lambda: os.listdir("/"),
    "socket": lambda: socket.socket(),
    "process": lambda: os.fork(),
    "signal": lambda: os.kill(os.getppid(), 0),
}
reading, writing = os.pipe()
if os.fork() == 0:
    limit_process(PictureLimits())
    refused = []
    for name, attempt in tries.items():
        try:
            attempt()
        except OSError:
            refused.append(name)
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)]
    readable = len(os.read(inherited, 1))
    os.write(writing, json.dumps([refused, limits, readable]).encode())
    os._exit(0)
os.close(writing)
print(os.read(reading, 4096).decode())
"""


def test_a_child_reaches_nothing_but_its_picture() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CONFINED], capture_output=True, text=True, cwd=ROOT, check=True
    )
    refused, (memory, file_size), readable = json.loads(run.stdout)
    held = what_holds()
    expected = {"file", "listing"} if held["files"] else set()
    expected |= {"socket", "process", "signal"} if held["syscalls"] else set()
    assert set(refused) >= expected
    assert (0 < memory < 2**32, file_size, readable) == (True, 0, 1)


def test_the_warm_process_is_recycled_and_nothing_is_left_open() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # iterdir opens one itself
    seen = set()
    with PictureDecoder(recycle_after=2) as decoder:
        for _ in range(5):
            decoder.decode(FORMATS["JPEG"])
            seen.add(decoder.pid)
    assert len(seen) == 3
    assert not any(psutil.pid_exists(pid) for pid in seen if pid is not None)
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_pictures_decode_side_by_side_without_mixing(decoder: PictureDecoder) -> None:
    wrong: list[int] = []

    def work(side: int) -> None:
        expected = noise(side, side)
        body = saved("PNG", side, side)
        for _ in range(4):
            if not np.array_equal(decoder.decode(body).colour, expected):
                wrong.append(side)

    threads = [threading.Thread(target=work, args=(8 + 3 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
