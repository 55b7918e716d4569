"""Decodes a picture with Pillow into upright 8-bit grey or RGB plus alpha.

Runs on bytes that users send, so only a killable child process should call ``decode_picture``.

| stored as | becomes | said in the notes |
|---|---|---|
| L, RGB | itself | |
| LA, RGBA, anything with a transparent colour | colour + alpha | |
| 1 | grey | yes |
| P | RGB, + alpha when the palette has some | yes |
| I;16, 16-bit RGB and alpha | 8 bits, rounded for grey, the high byte for colour | yes |
| CMYK, YCCK | sRGB through the embedded profile, or Pillow's formula without one | yes |
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import (
    ExifTags,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401  # loaded for EXIF, and a confined process can load nothing
    WebPImagePlugin,
)

from engine.frames import Bytes
from server.media.errors import OverLimit, UnusableMedia
from server.media.picture_header import PictureFormat, PictureHeader, read_header
from server.media.pictures import Picture, PictureLimits

_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    struct.error,
    MemoryError,
    OverflowError,
    ZeroDivisionError,
    AttributeError,
)
"""What Pillow's PNG, JPEG and WebP readers were seen to raise on damaged files, and kin."""

_READERS: dict[PictureFormat, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}
"""Named here, so that no other of Pillow's parsers can ever see the file."""

_STALE_EXIF = (
    ExifTags.Base.ImageWidth,
    ExifTags.Base.ImageLength,
)
_STALE_EXIF_PHOTO = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


def decode_picture(stream: BinaryIO, limits: PictureLimits, *, keep_gps: bool = True) -> Picture:
    """Decodes the picture in a seekable binary file.

    Raises:
        UnsupportedMedia: not PNG, JPEG or WebP by its first bytes.
        OverLimit: too large; nothing was decoded.
        UnusableMedia: damaged, cut short or animated.
    """
    header = _checked_header(stream, limits)
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _READERS[header.format](stream) as image:
                image.load()
                return _to_picture(image, header, keep_gps)
    except _PILLOW_ERRORS as error:
        raise UnusableMedia(
            f"The {header.format} picture is damaged or cut short ({_reason(error)}); "
            "send an intact one."
        ) from error


def _checked_header(stream: BinaryIO, limits: PictureLimits) -> PictureHeader:
    size = stream.seek(0, io.SEEK_END)
    if size > limits.max_bytes:
        raise OverLimit(
            f"The picture file has {size} bytes and at most {limits.max_bytes} are taken.",
            code="too_large",
            limit=limits.max_bytes,
            actual=size,
            status=413,
        )
    header = read_header(stream)
    _check_size(header, limits)
    if header.animated:
        raise UnusableMedia(
            f"This {header.format} is animated and only its first frame could be kept; "
            "convert it to a GIF or a video."
        )
    return header


def _check_size(header: PictureHeader, limits: PictureLimits) -> None:
    longest, pixels = max(header.width, header.height), header.width * header.height
    found = f"The picture has {header.width}x{header.height} pixels"
    if longest > limits.max_side:
        raise OverLimit(
            f"{found} and a side may have at most {limits.max_side}; make it smaller.",
            limit=limits.max_side,
            actual=longest,
        )
    if pixels > limits.max_pixels:
        raise OverLimit(
            f"{found}, {pixels} in all, and at most {limits.max_pixels} are taken; "
            "make it smaller.",
            limit=limits.max_pixels,
            actual=pixels,
        )


def _reason(error: BaseException) -> str:
    """Pillow's own words, unless they hold an address or a path."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return type(error).__name__ if "/" in text or "0x" in text or len(text) > 100 else text


def _to_picture(image: Image.Image, header: PictureHeader, keep_gps: bool) -> Picture:
    notes = _notes_on_extras(image)
    exif, orientation = _exif(image, keep_gps, notes)
    icc = image.info.get("icc_profile")
    if header.bit_depth == 16 and image.mode != "I;16":
        notes.append("16 bits per sample were reduced to 8")
    _scale_transparent_colour(image, header.bit_depth)
    upright = _turn(image, orientation)
    if image.mode == "CMYK":
        upright, icc = _cmyk_to_srgb(upright, icc, notes), None
    colour, alpha = _planes(upright, notes)
    return Picture(colour, alpha, header.format, icc or None, exif, tuple(notes))


def _scale_transparent_colour(image: Image.Image, bit_depth: int) -> None:
    """Pillow scales samples of 2, 4 and 16 bits to 8, but not the colour that is transparent."""
    colour = image.info.get("transparency")
    if image.mode == "L" and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**bit_depth - 1)
    elif bit_depth == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _notes_on_extras(image: Image.Image) -> list[str]:
    notes = []
    if "mp" in image.info:
        notes.append("further pictures in the file (gain map, preview) were left out")
    if "xmp" in image.info:
        notes.append("XMP metadata was left out")
    return notes


def _exif(image: Image.Image, keep_gps: bool, notes: list[str]) -> tuple[bytes | None, int]:
    """(EXIF to write, orientation 1..8 to apply); damaged EXIF is dropped, not fatal."""
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        if not exif:
            return None, 1
        for tag in _STALE_EXIF:
            exif.pop(tag, None)
        photo = exif.get_ifd(ExifTags.IFD.Exif)
        for tag in _STALE_EXIF_PHOTO:
            photo.pop(tag, None)
        if ExifTags.Base.Orientation in exif:
            exif[ExifTags.Base.Orientation] = 1
        if not keep_gps and ExifTags.IFD.GPSInfo in exif:
            del exif[ExifTags.IFD.GPSInfo]
            notes.append("the GPS position was removed")
        return exif.tobytes(), orientation if orientation in range(1, 9) else 1
    except _PILLOW_ERRORS:
        notes.append("damaged EXIF metadata was left out")
        return None, 1


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _cmyk_to_srgb(image: Image.Image, icc: bytes | None, notes: list[str]) -> Image.Image:
    if icc:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError):
            notes.append("the CMYK profile is damaged and was ignored")
        else:
            notes.append("CMYK was converted to sRGB through its profile")
            assert converted is not None
            return converted
    notes.append("CMYK without a profile was converted to sRGB by formula")
    return image.convert("RGB")


def _planes(image: Image.Image, notes: list[str]) -> tuple[Bytes, Bytes | None]:
    """Grey (H, W) or RGB (H, W, 3), and alpha (H, W) or None."""
    mode = image.mode
    if mode.startswith("I"):
        notes.append("16 bits per sample were reduced to 8")
        samples = np.minimum(np.asarray(image).astype(np.uint32), 65_535)
        grey_levels = ((samples + 128) // 257).astype(np.uint8)
        hidden = image.info.get("transparency")
        if hidden is None:
            return grey_levels, None
        return grey_levels, np.where(samples == hidden, 0, 255).astype(np.uint8)
    if mode == "1":
        notes.append("black and white of 1 bit became 8-bit grey")
    if mode in ("P", "PA"):
        notes.append("the palette became full colour")
    grey = mode in ("1", "L", "LA", "La")
    transparent = image.has_transparency_data
    target = ("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB")
    planes = np.asarray(image.convert(target))
    if not transparent:
        return np.ascontiguousarray(planes), None
    colour = planes[..., 0] if grey else planes[..., :3]
    return np.ascontiguousarray(colour), np.ascontiguousarray(planes[..., -1])
