"""Every kind of picture keeps what it is: colour, transparency, uprightness, profile."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from engine.backends.nearest import NearestBackend, repeat
from engine.frames import Bytes, Frame
from engine.upscaler import Upscaler
from server.media.errors import MediaError
from server.media.picture_header import PictureFormat, read_header
from server.media.picture_modes import decode_picture
from server.media.pictures import Picture, PictureLimits, encode_picture
from server.picture_session import PictureOptions, enlarge_picture, upscale_picture

LIMITS = PictureLimits()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED, BLUE = (220, 20, 10), (15, 30, 210)


@pytest.fixture(scope="module")
def nearest() -> Iterator[Upscaler]:
    with Upscaler(NearestBackend()) as upscaler:
        yield upscaler


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format.upper(), **options)
    return buffer.getvalue()


def decoded(data: bytes, **options: bool) -> Picture:
    return decode_picture(io.BytesIO(data), LIMITS, **options)


def ramp(height: int = 6, width: int = 10) -> Bytes:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 20, y * 30, x * 5 + y * 7], axis=2).astype(np.uint8)


def halves(mode: str) -> Image.Image:
    """Left half red, right half blue, in ``mode``."""
    image = Image.new("RGB", (16, 8), RED)
    image.paste(BLUE, (8, 0, 16, 8))
    return image.quantize(4) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "stored"),
    [
        ("RGB", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("RGB", "jpeg"),
        ("CMYK", "jpeg"),
        ("RGB", "webp"),
        ("RGBA", "webp"),
    ],
)
@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp"])
def test_red_and_blue_keep_their_colour_through_every_mode_and_format(
    nearest: Upscaler, mode: str, stored: str, wanted: PictureFormat
) -> None:
    picture = decoded(saved(halves(mode), stored, quality=95))
    result = upscale_picture(picture, nearest, PictureOptions(format=wanted, quality=95))
    image = Image.open(io.BytesIO(result.data))
    assert image.format == wanted.upper()
    assert image.size == (64, 32) == (result.width, result.height)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels[4:-4, 4:20] - RED).max() <= 6
    assert np.abs(pixels[4:-4, 44:-4] - BLUE).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_a_grey_picture_stays_grey(nearest: Upscaler, mode: str) -> None:
    grey = ramp()[..., 0]
    image = Image.fromarray(grey).convert(mode)
    result = upscale_picture(decoded(saved(image, "png")), nearest)
    image_out = Image.open(io.BytesIO(result.data))
    assert image_out.mode == ("LA" if mode == "LA" else "L")
    expected = repeat(np.asarray(image.convert("L")))
    assert np.array_equal(np.asarray(image_out.convert("L")), expected)


def test_sixteen_bit_grey_is_rounded_and_said() -> None:
    samples = np.arange(0, 65_536, 16, dtype=np.uint16).reshape(64, 64)
    picture = decoded(saved(Image.fromarray(samples), "png"))
    assert np.array_equal(picture.colour, np.rint(samples / 257).astype(np.uint8))
    assert any("16 bits" in note for note in picture.notes)


def png(
    bit_depth: int, colour_type: int, row: bytes, width: int, transparent: list[int] | None = None
) -> bytes:
    """One row of pixels as they are stored."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, 1, bit_depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", words(transparent)) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


def words(values: list[int]) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


GREY, COLOUR = 0, 2


def test_sixteen_bit_colour_is_said() -> None:
    picture = decoded(png(16, COLOUR, words([0xFFFF, 0x8000, 0x0100]), 1))
    assert picture.colour.tolist() == [[[0xFF, 0x80, 0x01]]]
    assert picture.notes == ("16 bits per sample were reduced to 8",)


@pytest.mark.parametrize(
    ("data", "alpha"),
    [
        (png(16, GREY, words([500, 501, 60_000]), 3, [501]), [255, 0, 255]),
        (
            png(16, COLOUR, words([9, 9, 9, 515, 999, 8]), 2, [515, 999, 8]),
            [255, 0],
        ),
        (png(8, GREY, bytes([7, 8, 9]), 3, [8]), [255, 0, 255]),
        (png(4, GREY, bytes([0x12, 0x3F]), 4, [3]), [255, 255, 0, 255]),
        (png(2, GREY, bytes([0b00011011]), 4, [2]), [255, 255, 0, 255]),
        (png(1, GREY, bytes([0b01010000]), 4, [1]), [255, 0, 255, 0]),
    ],
    ids=["grey 16", "colour 16", "grey 8", "grey 4", "grey 2", "grey 1"],
)
def test_a_transparent_colour_of_any_depth_becomes_alpha(data: bytes, alpha: list[int]) -> None:
    picture = decoded(data)
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [alpha]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stored", ["png", "jpeg", "webp"])
def test_the_exif_turn_is_applied_once_and_reset(
    nearest: Upscaler, orientation: int, stored: PictureFormat
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "camera"
    image = Image.fromarray(repeat(ramp(), 8))
    data = saved(image, stored, exif=exif, quality=95, lossless=True)
    result = upscale_picture(decoded(data), nearest, PictureOptions(format="png"))
    out = Image.open(io.BytesIO(result.data))
    assert out.getexif()[ExifTags.Base.Orientation] == 1
    assert out.getexif()[ExifTags.Base.Make] == "camera"
    with Image.open(io.BytesIO(data)) as original:
        method = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }.get(orientation)
        upright = original.convert("RGB")
        upright = upright if method is None else upright.transpose(method)
        assert np.array_equal(np.asarray(out), repeat(np.asarray(upright)))


def test_a_second_picture_in_the_file_is_said_to_be_left_out() -> None:
    """As in ultra HDR pictures (gain map) and in those of stereo cameras."""
    first, second = Image.fromarray(repeat(ramp(), 8)), Image.fromarray(ramp())
    data = saved(first, "mpo", save_all=True, append_images=[second])
    picture = decoded(data)
    assert (picture.format, picture.width) == ("jpeg", first.width)
    assert "further pictures in the file (gain map, preview) were left out" in picture.notes


def exif_with_gps() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (52.0, 31.0, 12.0)}
    return exif


@pytest.mark.parametrize("stored", ["png", "jpeg", "webp"])
def test_gps_is_kept_unless_it_must_go(stored: PictureFormat) -> None:
    data = saved(Image.fromarray(ramp()), stored, exif=exif_with_gps())
    for keep_gps in (True, False):
        picture = decoded(data, keep_gps=keep_gps)
        exif = Image.open(io.BytesIO(encode_picture(picture).data)).getexif()
        assert exif[ExifTags.Base.Make] == "camera"
        assert bool(exif.get_ifd(ExifTags.IFD.GPSInfo)) is keep_gps
        assert ("the GPS position was removed" in picture.notes) is not keep_gps


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = saved(Image.fromarray(ramp()), "png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    picture = decoded(data)
    assert np.array_equal(picture.colour, ramp())
    assert picture.exif is None


@pytest.mark.parametrize("stored", ["png", "jpeg", "webp"])
def test_the_colour_profile_is_kept(nearest: Upscaler, stored: PictureFormat) -> None:
    data = saved(Image.fromarray(ramp()), stored, icc_profile=SRGB)
    result = upscale_picture(decoded(data), nearest)
    assert Image.open(io.BytesIO(result.data)).info["icc_profile"] == SRGB


def test_a_profile_that_does_not_fit_is_left_out_and_said() -> None:
    picture = Picture(ramp()[..., 0].copy(), None, "png", icc=SRGB)
    result = encode_picture(picture)
    assert "icc_profile" not in Image.open(io.BytesIO(result.data)).info
    assert any("profile" in note for note in result.notes)


def cmyk_profile(lab: tuple[int, int, int]) -> bytes:
    """A profile by which every CMYK colour is the same one, so that its use cannot be missed."""
    ramp_table = bytes(range(256))
    identity = struct.pack(">9i", *[0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x10000])
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity
    table += ramp_table * 4 + bytes(lab) * 2**4 + ramp_table * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    head = struct.pack(">II4s4s4s", 144 + len(table), 0, b"\x02\x40\0\0", b"prtr", b"CMYK")
    head = head[:4] + b"\0\0\0\0" + head[8:] + b"Lab " + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">III", 0xF6D6, 0x10000, 0xD32D) + bytes(48)
    return head + tags + table


def test_cmyk_goes_through_its_profile() -> None:
    image = Image.fromarray(ramp()).convert("CMYK")
    data = saved(image, "jpeg", icc_profile=cmyk_profile((128, 60, 190)), quality=95)
    picture = decoded(data)
    assert picture.icc is None
    assert "CMYK was converted to sRGB through its profile" in picture.notes
    colours = picture.colour.reshape(-1, 3)
    assert (colours == colours[0]).all()
    assert colours[0, 1] == colours[0].max()  # Lab a = -68 is green


def test_cmyk_with_a_damaged_profile_is_converted_by_formula() -> None:
    image = Image.fromarray(ramp()).convert("CMYK")
    picture = decoded(saved(image, "jpeg", icc_profile=b"not a profile", quality=100))
    assert "the CMYK profile is damaged and was ignored" in picture.notes
    assert np.abs(picture.colour.astype(int) - ramp()).mean() < 12


def with_hole(mode: str) -> Image.Image:
    """Visible and green on the left, black and fully transparent on the right."""
    alpha = np.zeros((8, 16), np.uint8)
    alpha[:, :8] = 255
    colour = np.zeros((8, 16, 3), np.uint8)
    colour[:, :8] = (30, 200, 60)
    image = Image.fromarray(np.dstack([colour, alpha]))
    if mode == "P":
        return image.quantize(8)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("stored", ["png", "webp"])
def test_transparency_is_enlarged_apart_and_hidden_colour_never_bleeds(
    nearest: Upscaler, mode: str, stored: PictureFormat
) -> None:
    original = with_hole(mode)
    picture = decoded(saved(original, stored, lossless=True, exact=True))
    result = upscale_picture(picture, nearest, PictureOptions(quality=100))
    image = Image.open(io.BytesIO(result.data)).convert("RGBA")
    pixels = np.asarray(image)
    assert (pixels[:, :24, 3] == 255).all()
    assert (pixels[:, 40:, 3] == 0).all()
    assert (np.diff(pixels[0, 24:40, 3].astype(int)) <= 0).all()
    visible = np.asarray(original.convert("RGBA"))[0, 0, :3].astype(int)
    assert np.abs(pixels[:, :40, :3].astype(int) - visible).max() <= 1


class Dimming:
    """An upscaler that leaves everything a little darker, as a network may."""

    def upscale(self, frame: Frame) -> Frame:
        assert isinstance(frame, np.ndarray)
        return np.maximum(repeat(frame), 4) - 4


def test_opaque_and_empty_areas_stay_exactly_so_whatever_the_network_does() -> None:
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    result = enlarge_picture(Picture(np.full((16, 16, 3), 90, np.uint8), alpha, "png"), Dimming())
    assert result.alpha is not None
    assert (result.alpha[:, :24] == 0).all()
    assert (result.alpha[:, 40:] == 255).all()
    assert (result.alpha[:, 32:40] == 251).all()


def test_a_transparent_colour_of_an_rgb_png_becomes_alpha() -> None:
    image = Image.fromarray(ramp())
    picture = decoded(saved(image, "png", transparency=(0, 0, 0)))
    assert picture.alpha is not None
    assert picture.alpha[0, 0] == 0
    assert picture.alpha[1, 1] == 255


def test_a_transparent_picture_is_never_matted_into_a_jpeg(nearest: Upscaler) -> None:
    picture = decoded(saved(with_hole("RGBA"), "png"))
    with pytest.raises(MediaError, match="ask for png or webp"):
        upscale_picture(picture, nearest, PictureOptions(format="jpeg"))


def test_an_opaque_alpha_may_go_and_is_said(nearest: Upscaler) -> None:
    picture = decoded(saved(Image.fromarray(ramp()).convert("RGBA"), "png"))
    result = upscale_picture(picture, nearest, PictureOptions(format="jpeg"))
    assert any("alpha" in note for note in result.notes)


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stored=st.sampled_from(["png", "jpeg", "webp"]),
    lossless=st.booleans(),
    alpha=st.booleans(),
)
def test_the_header_is_read_as_pillow_reads_it_and_the_result_is_four_times_larger(
    nearest: Upscaler, height: int, width: int, stored: PictureFormat, lossless: bool, alpha: bool
) -> None:
    image = Image.fromarray(ramp(height, width))
    if alpha and stored != "jpeg":
        image.putalpha(128)
    data = saved(image, stored, lossless=lossless, progressive=lossless)
    header = read_header(io.BytesIO(data))
    assert (header.format, header.width, header.height) == (stored, width, height)
    result = upscale_picture(decoded(data), nearest)
    assert Image.open(io.BytesIO(result.data)).size == (4 * width, 4 * height)


class Lopsided:
    """An upscaler whose error depends on where a pixel is, like a network's at borders."""

    def upscale(self, frame: Frame) -> Frame:
        assert isinstance(frame, np.ndarray)
        result = repeat(frame)
        error = (np.arange(result.shape[1]) % 4)[np.newaxis, :, np.newaxis]
        return np.minimum(result.astype(int) + error, 255).astype(np.uint8)


@given(quarters=st.integers(0, 3), mirrored=st.booleans())
def test_best_treats_every_turn_of_a_picture_alike(quarters: int, mirrored: bool) -> None:
    def turn(frame: Bytes) -> Bytes:
        return np.ascontiguousarray(np.rot90(frame[:, ::-1] if mirrored else frame, quarters))

    best = enlarge_picture(Picture(ramp(), None, "png"), Lopsided(), best=True).colour
    turned = enlarge_picture(Picture(turn(ramp()), None, "png"), Lopsided(), best=True).colour
    assert np.array_equal(turn(best), turned)
    plain = enlarge_picture(Picture(ramp(), None, "png"), Lopsided()).colour
    truth = repeat(ramp()).astype(int)
    assert np.ptp(best - truth) < np.ptp(plain - truth)


def test_a_smaller_size_is_the_mean_over_the_area(nearest: Upscaler) -> None:
    picture = Picture(ramp(), ramp()[..., 0] // 2 + 100, "png")
    result = upscale_picture(picture, nearest, PictureOptions(size=(20, 12)))
    image = np.asarray(Image.open(io.BytesIO(result.data)))
    assert np.array_equal(image[..., :3], repeat(ramp(), 2))
    by_height = upscale_picture(picture, nearest, PictureOptions(height=12))
    assert (by_height.width, by_height.height) == (20, 12)


@pytest.mark.parametrize("options", [PictureOptions(height=25), PictureOptions(size=(41, 24))])
def test_more_than_four_times_is_refused(nearest: Upscaler, options: PictureOptions) -> None:
    with pytest.raises(MediaError, match="at most 40x24"):
        upscale_picture(Picture(ramp(), None, "png"), nearest, options)


def test_a_webp_side_has_its_limit_and_the_message_names_what_would_do(nearest: Upscaler) -> None:
    picture = Picture(np.zeros((1, 4096, 3), np.uint8), None, "webp")
    with pytest.raises(MediaError, match="ask for png or jpeg") as caught:
        upscale_picture(picture, nearest)
    assert (caught.value.limit, caught.value.actual) == (16_383, 16_384)
    inside = Picture(np.zeros((1, 4095, 3), np.uint8), None, "webp")
    assert upscale_picture(inside, nearest).width == 16_380
