"""A still picture between its file and the network: colour, alpha, profile, and how it is written.

Decoding a user's bytes is ``picture_modes`` and happens in a child process; here are only the
values that cross, and the encoder, which sees nothing but our own pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from PIL import Image

from engine.frames import Bytes
from server.media.errors import OverLimit, UnusableMedia
from server.media.picture_header import PictureFormat

MEDIA_TYPES: dict[PictureFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
"""Picture format -> the type HTTP gives it."""

SUFFIXES: dict[str, PictureFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
"""File name endings under which a picture may be written."""

MAX_SIDE: dict[PictureFormat, int] = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
"""Pixels that one side can have in a file of the format (JPEG: what libjpeg accepts)."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a picture may cost, checked on its header before anything is decoded."""

    max_bytes: int = 32 * 2**20
    """Largest file."""
    max_pixels: int = 4_194_304
    """Most pixels of the input; the result has 16 times as many."""
    max_side: int = 4096
    """Most pixels along one side of the input."""
    decode_seconds: float = 30.0
    """Wall clock after which the decoding child is killed."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, upright, 8 bits per sample."""

    colour: Bytes
    """(H, W) grey or (H, W, 3) RGB, uint8, encoded as ``icc`` says (sRGB without one)."""
    alpha: Bytes | None
    """(H, W) uint8, not premultiplied; None when the picture has none."""
    format: PictureFormat
    """Of the file it came from."""
    icc: bytes | None = None
    exif: bytes | None = None
    """As Pillow writes it, orientation 1, without sizes and thumbnail."""
    notes: tuple[str, ...] = ()
    """What was converted or left out, one sentence each."""

    def __post_init__(self) -> None:
        shape = self.colour.shape
        if self.colour.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
            raise ValueError(f"colour is (H, W) or (H, W, 3) uint8, got {shape}")
        if self.alpha is not None and self.alpha.shape != shape[:2]:
            raise ValueError(f"alpha of {self.alpha.shape} does not cover colour of {shape}")

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.colour.shape[0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.colour.shape[1])

    @property
    def is_transparent(self) -> bool:
        """Whether any pixel is less than opaque."""
        return self.alpha is not None and int(self.alpha.min()) < 255

    @property
    def is_grey(self) -> bool:
        """Whether the picture has one colour channel."""
        return self.colour.ndim == 2


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A finished picture file in memory."""

    data: bytes
    format: PictureFormat
    width: int
    height: int
    notes: tuple[str, ...]

    @property
    def media_type(self) -> str:
        """For ``Content-Type``."""
        return MEDIA_TYPES[self.format]


def check_output(format: PictureFormat, width: int, height: int) -> None:
    """Refuses a size that ``format`` cannot hold; call it before the work is done.

    Raises:
        OverLimit: with the formats that could.
    """
    longest, limit = max(width, height), MAX_SIDE[format]
    if longest <= limit:
        return
    able = [name for name, side in MAX_SIDE.items() if side >= longest]
    raise OverLimit(
        f"A {format} file holds at most {limit} pixels a side and the result has {width}x{height}; "
        f"ask for {' or '.join(able)}, or for a smaller size.",
        limit=limit,
        actual=longest,
    )


def encode_picture(
    picture: Picture, format: PictureFormat | None = None, quality: int | None = None
) -> EncodedPicture:
    """Writes ``picture`` as ``format`` (its own by default) with its profile and EXIF.

    ``quality`` is 1..100 (92 for JPEG and 90 for WebP by default; 100 makes WebP lossless);
    PNG is always lossless and ignores it.

    Raises:
        UnusableMedia: the picture is transparent and ``format`` cannot be, or its encoder gave up.
        OverLimit: see ``check_output``.
    """
    format = format or picture.format
    check_output(format, picture.width, picture.height)
    notes = list(picture.notes)
    if format == "jpeg" and picture.alpha is not None:
        if picture.is_transparent:
            raise UnusableMedia(
                "The picture is transparent and a JPEG cannot be; ask for png or webp."
            )
        notes.append("the alpha channel was opaque everywhere and JPEG has none")
    icc = picture.icc
    if icc is not None and icc[16:20] != (
        b"GRAY" if picture.is_grey and format != "webp" else b"RGB "
    ):
        notes.append(
            f"the colour profile does not fit a {'grey' if picture.is_grey else 'colour'} {format} "
            "and was left out"
        )
        icc = None
    exif = picture.exif
    if exif is not None and format == "jpeg" and len(exif) > 65_500:
        notes.append(f"EXIF of {len(exif)} bytes does not fit into a JPEG and was left out")
        exif = None
    buffer = io.BytesIO()
    image = _image(picture, with_alpha=format != "jpeg")
    try:
        image.save(buffer, format.upper(), **_options(format, quality, icc, exif))
    except (ValueError, OSError) as error:  # libwebp gives up on 200 megapixels of much detail
        raise UnusableMedia(
            f"The result of {picture.width}x{picture.height} pixels cannot be encoded as {format} "
            f"({error}); ask for another format or a smaller size.",
            code="bad_parameter",
        ) from error
    return EncodedPicture(buffer.getvalue(), format, picture.width, picture.height, tuple(notes))


def _image(picture: Picture, with_alpha: bool) -> Image.Image:
    image = Image.fromarray(picture.colour)
    if with_alpha and picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _options(
    format: PictureFormat, quality: int | None, icc: bytes | None, exif: bytes | None
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if icc is not None:
        options["icc_profile"] = icc
    if exif is not None:
        options["exif"] = exif
    match format:
        case "png":
            # 4096x4096 took 1.1 s at level 2 and 5.0 s at Pillow's 6, for 12 % fewer bytes.
            options["compress_level"] = 2
        case "jpeg":
            quality = quality or 92
            options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
        case "webp":
            quality = quality or 90
            options |= {"quality": quality, "lossless": quality == 100, "method": 2, "exact": True}
        case _ as never:
            assert_never(never)
    return options
