"""What ``sr-upscale`` can be told, and which of it does not go together. Does no work itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from engine.selection import BackendName
from server.media.codecs import CONTAINERS
from server.media.pictures import SUFFIXES

DESCRIPTION = """\
Make a picture, a video or a folder of pictures four times larger, for example:
  sr-upscale small.png large.png
  sr-upscale clip.mp4 clip_x4.mp4            (audio, subtitles and timing come along)
  sr-upscale clip.mp4 clip_4k.mkv --height 2160 --codec hevc
  sr-upscale holiday.mkv taste.mp4 --start 60 --end 65
  sr-upscale photos/ photos_x4/              (run it again: finished ones are skipped)
  sr-upscale scan.jpg scan_x4.png --best     (8 times the work, a little sharper)

IN may be PNG, JPEG, WebP, MP4, MOV, MKV, WebM, AVI, MPEG-TS or GIF, whatever its name. OUT appears
only when it is whole. Messages go to stderr; the exit code is 0, or 2 when something was wrong.\
"""


MAX_THREADS = 1024
"""ONNX Runtime starts as many as it is told and then neither works nor ends."""
MAX_SECONDS = 1e9
"""Thirty years; what is more cannot be counted in the ticks of every container."""


class UsageError(Exception):
    """The arguments do not go together; the message is one sentence."""


# Lines of these docstrings are at most 62 columns wide, as the help shows them as they are.
@dataclass(frozen=True, slots=True)
class Arguments:
    """The command line; the docstrings are its ``--help``."""

    source: Annotated[tyro.conf.Positional[Path], arg(metavar="IN", help_behavior_hint="")]
    """A picture, a video, or a folder of pictures."""
    target: Annotated[tyro.conf.Positional[Path], arg(metavar="OUT", help_behavior_hint="")]
    """The result. Its ending is its format: .png .jpg .webp,
    .mp4 .mov .mkv. A folder when IN is one: each picture keeps
    its name and format."""
    model: Annotated[str, arg(metavar="NAME")] = "auto"
    """fast, balanced, quality, fast-video (for compressed video:
    sharper and calmer there) or the path of a weights file.
    auto is fast on a CPU."""
    backend: BackendName = "auto"
    """What runs the network. auto takes the fastest that works
    here and says which and why; one asked for by name never
    falls back. nearest repeats pixels: a dry run."""
    codec: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Videos: libx264 (the default), libx265, libsvtav1, and on an
    NVIDIA GPU h264_nvenc, hevc_nvenc, av1_nvenc."""
    quality: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Pictures: 1 to 100, more is better; by default JPEG 92,
    WebP 90 (100 is lossless). Videos: the codec's constant
    quality, less is better; by default 18 for libx264."""
    start: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="")] = None
    """Videos: where to begin."""
    end: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="")] = None
    """Videos: where to stop."""
    height: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="")] = None
    """Height of the result, at most x4: the x4 result is
    averaged down to it. 2160 is 4K."""
    size: Annotated[str | None, arg(metavar="WxH", help_behavior_hint="")] = None
    """Size of the result, at most x4, e.g. 3840x2160; instead
    of --height."""
    best: Annotated[bool, arg(help_behavior_hint="")] = False
    """Pictures: the mean over all 8 flips and quarter turns."""
    strip_gps: Annotated[bool, arg(help_behavior_hint="")] = False
    """Pictures: leave out where they were taken."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """CPU threads of the network; by default all cores."""
    manifest: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a JSON record of what was done: sizes, hashes,
    backend, what was converted or dropped."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Videos: spread the frames over a Ray cluster: HOST:PORT of
    its head, auto (also without ADDRESS) for the one that this
    machine belongs to, or local for this machine alone."""
    overwrite: Annotated[bool, arg(help_behavior_hint="")] = False
    """Replace OUT if it is there. Nothing is ever replaced
    without this."""


_ADDRESS = re.compile(r"auto|local|(ray://)?[\w.-]+:\d+|(ray://)?\[[0-9a-f:]+\]:\d+")


def with_address(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``auto`` after a ``--cluster`` that no address follows."""
    found: list[str] = []
    for index, argument in enumerate(arguments):
        found.append(argument)
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if argument == "--cluster" and not _ADDRESS.fullmatch(following):
            found.append("auto")
    return found


def parse_arguments(words: Sequence[str]) -> Arguments:
    """The command line as tyro reads it. Raises SystemExit for ``--help`` and for mistakes."""
    return tyro.cli(
        Arguments,
        prog="sr-upscale",
        description=DESCRIPTION,
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def refuse(chosen: Arguments, what: str, **given: object) -> None:
    """Raises UsageError for an option that does nothing here: a misunderstanding, not a wish."""
    wrong = [f"--{name}" for name, value in given.items() if value not in (None, False)]
    if wrong:
        raise UsageError(f"{chosen.source} is {what}, for which {wrong[0]} means nothing; drop it.")
    if what != "a video" and chosen.quality is not None and not 1 <= chosen.quality <= 100:
        raise UsageError(f"The quality of a picture goes from 1 to 100, not {chosen.quality}.")


def check_target(chosen: Arguments, kind: Literal["picture", "video"]) -> None:
    """Raises UsageError unless OUT can be written as asked; before any work."""
    suffixes = tuple(SUFFIXES) if kind == "picture" else tuple(f".{name}" for name in CONTAINERS)
    target = chosen.target
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file in it.")
    if target.suffix.lower() not in suffixes:
        raise UsageError(
            f"{chosen.source} is a {kind}, so OUT must end in {', '.join(suffixes)}; "
            f"{target.name} does not."
        )
    if not target.absolute().parent.is_dir():
        raise UsageError(f"The folder of {target} does not exist; make it first.")
    if target.exists() and target.samefile(chosen.source):
        raise UsageError("IN and OUT are the same file; name another one.")
    if target.exists() and not chosen.overwrite:
        raise UsageError(f"{target} is there already; use --overwrite to replace it.")


def check_arguments(chosen: Arguments) -> None:
    """Raises UsageError for what is wrong whatever IN is; before anything is read."""
    if chosen.size is not None and chosen.height is not None:
        raise UsageError("--size and --height exclude each other; give one of them.")
    if chosen.threads is not None and not 1 <= chosen.threads <= MAX_THREADS:
        raise UsageError(f"--threads goes from 1 to {MAX_THREADS}, not {chosen.threads}.")
    for name, seconds in (("start", chosen.start), ("end", chosen.end)):
        if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
            raise UsageError(f"--{name} is a number of seconds from 0 on, not {seconds:g}.")
    if chosen.manifest is not None:
        _check_manifest(chosen, chosen.manifest)


def _check_manifest(chosen: Arguments, manifest: Path) -> None:
    if not manifest.absolute().parent.is_dir():
        raise UsageError(f"The folder of {manifest} does not exist; make it first.")
    if manifest.is_dir():
        raise UsageError(f"{manifest} is a folder; --manifest names a file in it.")
    if manifest.resolve() in (chosen.source.resolve(), chosen.target.resolve()):
        raise UsageError(f"--manifest would overwrite {manifest}; name another file.")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``3840x2160`` -> (3840, 2160). Raises UsageError."""
    if text is None:
        return None
    width, by, height = text.lower().partition("x")
    if not (by and width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size is WIDTHxHEIGHT, e.g. 3840x2160, not {text!r}.")
    return int(width), int(height)
