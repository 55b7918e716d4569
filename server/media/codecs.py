"""The encoders that are offered, what each can hold, and how it is set up. Knows no PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.media.errors import CodecUnavailable

ContainerName = Literal["mp4", "mov", "mkv"]
CONTAINERS: tuple[ContainerName, ...] = ("mp4", "mov", "mkv")
MUXERS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska"}
MEDIA_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska"}
Pace = Literal["file", "stream", "real_time"]
"""What matters most: small files, early first bytes, or keeping up."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One encoder. Sizes in pixels, measured with the libraries of PyAV 18.1."""

    encoder: str
    """FFmpeg's name."""
    label: str
    max_width: int
    max_height: int
    min_width: int
    min_height: int
    quality_option: str
    default_quality: int
    max_quality: int
    presets: tuple[str, str]
    """(normal, real time)."""
    takes_nv12: bool = False
    needs_gpu: bool = False


CODECS: dict[str, Codec] = {
    codec.encoder: codec
    for codec in (
        Codec(
            "libx264",
            "H.264",
            16384,
            16384,
            2,
            2,
            "crf",
            18,
            51,
            ("veryfast", "ultrafast"),
            takes_nv12=True,
        ),
        Codec("libx265", "HEVC", 16384, 16384, 16, 16, "crf", 21, 51, ("superfast", "ultrafast")),
        Codec("libsvtav1", "AV1", 16384, 8704, 4, 4, "crf", 28, 63, ("9", "11")),
        Codec("h264_nvenc", "H.264", 4096, 4096, 146, 50, "cq", 21, 51, ("p4", "p1"), True, True),
        Codec("hevc_nvenc", "HEVC", 8192, 8192, 130, 34, "cq", 23, 51, ("p4", "p1"), True, True),
        Codec("av1_nvenc", "AV1", 8192, 8192, 192, 128, "cq", 28, 63, ("p4", "p1"), True, True),
    )
}
ALIASES = {"h264": "libx264", "hevc": "libx265", "h265": "libx265", "av1": "libsvtav1"}
DEFAULT_CODEC = "libx264"


def find_codec(name: str) -> Codec:
    """The codec called ``name`` (an FFmpeg encoder name or ``h264``, ``hevc``, ``av1``).

    Raises:
        CodecUnavailable: there is none; the message lists those there are.
    """
    codec = CODECS.get(ALIASES.get(name, name))
    if codec is None:
        raise CodecUnavailable(f"There is no codec {name!r}; choose one of {', '.join(CODECS)}.")
    return codec


def check_codec_size(codec: Codec, width: int, height: int) -> None:
    """Raises CodecUnavailable when ``codec`` cannot hold such frames; names those that can."""
    if _holds(codec, width, height):
        return
    able = [other.encoder for other in CODECS.values() if _holds(other, width, height)]
    advice = f"use one of {', '.join(able)}" if able else "make the output smaller"
    raise CodecUnavailable(
        f"{codec.encoder} cannot hold {width}x{height} "
        f"(it takes {codec.min_width}x{codec.min_height} to "
        f"{codec.max_width}x{codec.max_height}); {advice}."
    )


def _holds(codec: Codec, width: int, height: int) -> bool:
    return (
        codec.min_width <= width <= codec.max_width
        and codec.min_height <= height <= codec.max_height
    )


def encoder_options(
    codec: Codec, *, quality: int | None, preset: str | None, pace: Pace, gop_frames: int
) -> dict[str, str]:
    """Private options for the encoder.

    A ``stream`` looks less far ahead, with B-frames all the same: the first packet comes after a
    dozen frames of H.264. The same ``quality`` is then about 0.8 dB lower and 14 % smaller.

    Raises:
        CodecUnavailable: the quality is out of the codec's range.
    """
    value = codec.default_quality if quality is None else quality
    if not 0 <= value <= codec.max_quality:
        raise CodecUnavailable(
            f"The quality of {codec.encoder} goes from 0 (best) to {codec.max_quality}, "
            f"not {value}."
        )
    options = {
        codec.quality_option: str(value),
        "preset": preset or codec.presets[pace == "real_time"],
        "g": str(max(gop_frames, 1)),
    }
    match codec.encoder, pace:
        case "libx264", "real_time":
            options["tune"] = "zerolatency"
        case "libx264", "stream":
            options["rc-lookahead"] = "5"
        case "libx265", "stream":
            options["x265-params"] = "log-level=none:rc-lookahead=5"
        case "libx265", _:
            options["x265-params"] = "log-level=none"
        case "libsvtav1", "stream":
            options["svtav1-params"] = "lookahead=0:hierarchical-levels=3"
        case (("libx264" | "libsvtav1"), _):
            pass
        case _:
            options |= {"rc": "vbr", "b": "0", "bf": "0"}
    return options
