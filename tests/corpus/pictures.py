"""Pictures, broken ones and odd but good ones."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from tests.corpus.item import Item, from_bytes

_MAGIC = b"\x89PNG\r\n\x1a\n"


def _noise(mode: str = "RGB", size: tuple[int, int] = (12, 9)) -> Image.Image:
    random = np.random.default_rng(3)
    picture = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(random.integers(0, 256, size[::-1], np.uint8)))
    return picture.convert(mode)


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + name + content + check


def _header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def _png(*chunks: bytes) -> bytes:
    return _MAGIC + b"".join(chunks) + _chunk(b"IEND", b"")


def good_pictures() -> dict[str, bytes]:
    """One of each format."""
    return {form: _saved(_noise(size=(40, 30)), form) for form in ("PNG", "JPEG", "WEBP")}


def broken() -> dict[str, bytes]:
    row = zlib.compress(b"\0" * (1 + 12 * 3) * 9)
    good = good_pictures()
    flipped = bytearray(good["PNG"])
    flipped[len(flipped) // 2] ^= 0x55
    cut = {
        f"{form.lower()} cut at {percent} %": data[: len(data) * percent // 100]
        for form, data in good.items()
        for percent in (10, 60, 97)
    }
    return cut | {
        "png of 10000x10000": _png(_header(10_000, 10_000), _chunk(b"IDAT", row)),
        "png of 65535x65535": _png(_header(65_535, 65_535), _chunk(b"IDAT", row)),
        "png of 2^31 rows": _png(_header(1, 2**31 - 1), _chunk(b"IDAT", row)),
        "png without width": _png(_header(0, 9), _chunk(b"IDAT", row)),
        "png without header": _png(_chunk(b"IDAT", row)),
        "png without pixels": _png(_header(12, 9)),
        "png with too few pixels": _png(_header(12, 90), _chunk(b"IDAT", row)),
        "png with a wrong check sum": bytes(flipped),
        "png of an unknown colour type": _png(_header(12, 9, 8, 5), _chunk(b"IDAT", row)),
        "png that inflates without end": _png(
            _header(12, 9), _chunk(b"IDAT", zlib.compress(bytes(30_000_000), 9))
        ),
        "png with a text that inflates": _png(
            _header(12, 9),
            _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000), 9)),
            _chunk(b"IDAT", row),
        ),
        "png palette without palette": _png(_header(12, 9, 8, 3), _chunk(b"IDAT", row)),
        "png animation without frames": _png(
            _header(12, 9), _chunk(b"acTL", bytes(8)), _chunk(b"IDAT", row)
        ),
        "jpeg of 64250x64250": b"\xff\xd8\xff\xc0\0\x11\x08"
        + struct.pack(">HH", 64_250, 64_250)
        + b"\x03"
        + bytes(100),
        "jpeg of nothing but its start": b"\xff\xd8\xff\xe0" + bytes(40),
        "jpeg without tables": b"\xff\xd8\xff\xda\0\x0c\x03" + bytes(200) + b"\xff\xd9",
        "webp of 16383x16383": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0"
        + bytes(4)
        + b"\xff\x3f\0\xff\x3f\0"
        + bytes(8),
        "webp with a wrong length": good["WEBP"][:4] + b"\xff\xff\xff\x7f" + good["WEBP"][8:],
    }


def odd() -> dict[str, bytes]:
    """Unusual but good: each must come out right."""
    grey16 = Image.fromarray((np.arange(108, dtype=np.uint16) * 600).reshape(9, 12))
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Title", "caf\xe9")
    palette = _noise().quantize(16)
    pictures = {
        "png of one pixel": _saved(_noise(size=(1, 1)), "PNG"),
        "png of one column": _saved(_noise(size=(1, 40)), "PNG"),
        "png rgb": _saved(_noise(), "PNG"),
        "png grey": _saved(_noise("L"), "PNG"),
        "png grey and alpha": _saved(_noise("LA"), "PNG"),
        "png rgba": _saved(_noise("RGBA"), "PNG"),
        "png bilevel": _saved(_noise("1"), "PNG"),
        "png palette": _saved(palette, "PNG"),
        "png palette with a transparent colour": _saved(palette, "PNG", transparency=3),
        "png of 16 bits": _saved(grey16, "PNG"),
        "png with text": _saved(_noise(), "PNG", pnginfo=comment),
        "png with something behind its end": _saved(_noise(), "PNG") + b"#EXTM3U\n" * 9,
        "jpeg grey": _saved(_noise("L"), "JPEG"),
        "jpeg cmyk": _saved(_noise("CMYK"), "JPEG"),
        "jpeg progressive": _saved(_noise(), "JPEG", progressive=True),
        "jpeg 4:4:4": _saved(_noise(), "JPEG", subsampling=0),
        "webp": _saved(_noise(), "WEBP"),
        "webp lossless with alpha": _saved(_noise("RGBA"), "WEBP", lossless=True),
        "webp animation": _saved(
            _noise(), "WEBP", save_all=True, append_images=[_noise("L").convert("RGB")]
        ),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pictures[f"jpeg turned {orientation}"] = _saved(_noise(), "JPEG", exif=exif)
    return pictures


def items() -> list[Item]:
    return [
        *from_bytes("broken picture", "picture", broken()),
        *from_bytes("odd picture", "picture", odd()),
    ]
