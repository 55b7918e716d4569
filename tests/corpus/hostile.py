"""What is not media, and what wants a parser to open other files or connections.

``CANARY`` and ``SIBLING`` stand for an address and a file beside the upload; the escape tests put
real ones in their place.
"""

from __future__ import annotations

import io
import random
import zipfile

from PIL import Image

from tests.corpus.avi import avi
from tests.corpus.item import Item, from_bytes

CANARY = b"http://127.0.0.1:9/canary.ts"
SIBLING = b"sibling.ts"


def not_media() -> dict[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("a.mp4"), b"hello" * 99)
    return {
        "empty": b"",
        "one byte": b"\0",
        "zeros": bytes(5000),
        "random": random.Random(1).randbytes(5000),
        "text": b"Dear reader, this is not a video.\n" * 50,
        "html": b"<!doctype html><script>alert(1)</script>",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
        "zip": archive.getvalue(),
        "pdf": b"%PDF-1.7\n1 0 obj<<>>endobj\n" * 20,
        "wav": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "mp3": b"ID3\x04\0\0\0\0\0\0" + bytes(500),
        "ogg": b"OggS\0\x02" + bytes(500),
        "flv": b"FLV\x01\x05\0\0\0\x09" + bytes(500),
        "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(500),
        "mpeg program stream": b"\0\0\x01\xba\x44" + bytes(2000),
        "raw h264": b"\0\0\0\x01\x67\x42\0\x0a\xf8\x41\xa2" + bytes(200),
        "tiff": b"II*\0\x08\0\0\0" + bytes(100),
        "bmp": b"BM" + bytes(100),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(200),
    }


def hostile() -> dict[str, bytes]:
    """Containers that name other files and addresses."""

    def playlist(target: bytes) -> bytes:
        head = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n"
        return head + target + b"\n#EXT-X-ENDLIST\n"

    hls = playlist(CANARY)
    key = b'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="' + CANARY + b'"\n#EXTINF:1,\n' + SIBLING
    return {
        "hls http": hls,
        "hls relative file": playlist(SIBLING),
        "hls file url": playlist(b"file:" + SIBLING),
        "hls concat": playlist(b"concat:" + SIBLING + b"|" + CANARY),
        "hls subfile": playlist(b"subfile,,start,0,end,99,,:" + SIBLING),
        "hls key": key,
        "hls master": b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n" + CANARY + b"\n",
        "ffconcat relative": b"ffconcat version 1.0\nfile " + SIBLING + b"\n",
        "ffconcat http": b"ffconcat version 1.0\nfile " + CANARY + b"\n",
        "ffconcat unsafe": b"ffconcat version 1.0\nfile " + SIBLING + b"\noption safe 0\n",
        "dash": _dash(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" '
        b'xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="' + CANARY + b'"/></svg>',
        "imf": b'<?xml version="1.0"?><AssetMap><Path>' + CANARY + b"</Path></AssetMap>",
        "m3u8 behind a movie's magic": b"\0\0\0\x08ftyp" + hls,
        "m3u8 behind a free box": b"\0\0\0\x08free" + hls,
        "m3u8 behind matroska's magic": b"\x1aE\xdf\xa3" + hls,
        "m3u8 behind gif's magic": b"GIF89a" + hls,
        "m3u8 behind png's magic": b"\x89PNG\r\n\x1a\n" + hls,
        "m3u8 behind jpeg's magic": b"\xff\xd8\xff\xe0" + hls,
        "m3u8 behind a transport stream's magic": (b"G" + hls).ljust(188, b"\n") + b"G" + hls,
        "movie that refers to a file": _referring_movie(),
    }


def playlist_in_avi() -> bytes:
    """A good video whose subtitle is a playlist (CVE-2017-9993): the picture may be used."""
    text = b"#EXTM3U\n#EXTINF:1,\n" + CANARY + b"\n#EXT-X-ENDLIST\n"
    name = b"GAB2\0\2\0" + len(b"a\0").to_bytes(4, "little") + b"a\0"
    subtitle = name + b"\4\0" + len(text).to_bytes(4, "little") + text
    return avi([jpeg(shade) for shade in (20, 120, 220)], text=subtitle)


def jpeg(shade: int, size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def _dash() -> bytes:
    return (
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        b'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
        b'<Representation id="1" bandwidth="1"><BaseURL>' + CANARY + b"</BaseURL></Representation>"
        b"</AdaptationSet></Period></MPD>"
    )


def _box(name: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + name + content


def _referring_movie() -> bytes:
    """A movie whose samples lie in another file, by its data reference."""
    reference = _box(b"dref", bytes(7) + b"\1" + _box(b"url ", bytes(4) + SIBLING + b"\0"))
    information = _box(b"minf", _box(b"dinf", reference))
    handler = _box(b"hdlr", bytes(8) + b"vide" + bytes(13))
    track = _box(b"trak", _box(b"mdia", handler + information))
    return _box(b"ftyp", b"qt  " + bytes(4)) + _box(b"moov", track) + _box(b"mdat", bytes(64))


def items() -> list[Item]:
    return [
        *from_bytes("not media", "decode", not_media()),
        *from_bytes("hostile", "decode", hostile()),
        *from_bytes("hostile", "session", {"playlist in a good avi": playlist_in_avi()}),
    ]
