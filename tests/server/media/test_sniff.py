from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.errors import UnsupportedMedia
from server.media.sniff import HEAD_BYTES, sniff, sniff_file

HEADS = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0",
    "webp": b"RIFF\0\0\0\0WEBPVP8 ",
    "mov": b"\0\0\0\x18ftypisom",
    "matroska": b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1f",
    "avi": b"RIFF\0\0\0\0AVI LIST",
    "gif": b"GIF89a",
    "mpegts": b"G" + bytes(187) + b"G" + bytes(187),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_supported_magic_is_named(name: str) -> None:
    found = sniff(HEADS[name] + bytes(300))
    assert found.name == name
    assert found.kind == ("picture" if name in ("png", "jpeg", "webp") else "video")
    assert found.media_type.split("/")[0] == (
        "video" if name not in ("gif", *PICTURES) else "image"
    )


PICTURES = ("png", "jpeg", "webp")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n",
        b"ffconcat version 1.0\nfile secret.mp4\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\n",
        b'<?xml version="1.0"?><MPD></MPD>',
        b"<svg></svg>",
        b"\x7fELF\x02\x01\x01",
        b"PK\x03\x04",
        b"\0\0\0\x18ftypavif",
    ],
)
def test_playlists_scripts_and_rubbish_are_refused_before_any_parser(head: bytes) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        sniff(head)
    assert caught.value.status == 415


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    lying = tmp_path / "evil.mp4"
    lying.write_bytes(b"ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(UnsupportedMedia):
        sniff_file(lying)
    honest = tmp_path / "playlist.m3u8"
    honest.write_bytes(HEADS["gif"])
    assert sniff_file(honest).name == "gif"


@given(st.binary(max_size=HEAD_BYTES))
def test_any_bytes_are_named_or_refused(head: bytes) -> None:
    try:
        found = sniff(head)
    except UnsupportedMedia:
        return
    assert found.name in HEADS
