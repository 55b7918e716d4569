"""The integrity ledger: good videos there and back, and what of them arrived.

An independent reading (plain PyAV) of the source and of the result, compared with each other and
with what the manifest says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler
from server.manifest import Manifest
from server.media.errors import MediaError
from server.media.limits import command_line_limits
from server.session import upscale_video
from server.video_options import VideoOptions
from tests.corpus import good_videos

CONTAINERS = ("mp4", "mov", "mkv")
_EXACT = ("mp4", "mov")
_TICK = Fraction(1, 1000)
"""Of Matroska's clock, in seconds."""
_UNSAID = (None, 0, 2)
_SMALL = 256
"""Height from which results are made smaller again, to be written in a reasonable time."""


@dataclass(frozen=True)
class Reading:
    """A video as somebody reads it who knows nothing of the product."""

    seconds: list[Fraction]
    """Of every frame that the decoder emits."""
    sound: list[list[bytes]]
    """Payloads of the packets of each audio stream."""
    sound_seconds: list[list[Fraction]]
    """Of the same packets."""
    colour: tuple[int, ...]
    """Matrix, primaries, transfer, range."""
    aspect: Fraction | None
    turn: int
    """Degrees."""
    streams: int
    chapters: int
    title: str | None


@dataclass
class Video:
    """One video in one container."""

    name: str
    container: str
    frames: int
    checks: dict[str, bool] = field(default_factory=dict)
    """Those that apply."""


@dataclass
class Integrity:
    """All of them."""

    videos: list[Video] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def totals(self) -> Iterator[tuple[str, str, int, int]]:
        """(what, wanted, how many are right, of how many), one for each check."""
        for check, (what, wanted) in CHECKS.items():
            found = [video.checks[check] for video in self.videos if check in video.checks]
            yield what, wanted, sum(found), len(found)


CHECKS = {
    "frames": ("Ledger: frames emitted = taken = encoded = read back", "all"),
    "times": ("Ledger: times the same (MP4, MOV) or within half a tick (Matroska)", "all"),
    "offset": ("Ledger: sound against picture within 1 ms", "all"),
    "sound": ("Ledger: audio payload bit for bit", "all"),
    "colour": ("Ledger: colour tags that the source has", "all"),
    "shape": ("Ledger: pixel aspect and rotation", "all"),
    "streams": ("Ledger: streams copied, or named as dropped", "all"),
    "labels": ("Ledger: title and chapters", "all"),
}


def read_video(path: Path) -> Reading:
    """Reads ``path`` with plain PyAV."""
    with av.open(str(path), metadata_errors="replace") as source:
        video = next(each for each in source.streams.video if not is_cover(each))
        frames = list(_frames(source, video))
        first, context = frames[0], video.codec_context
        tags = (first.colorspace, context.color_primaries, context.color_trc, first.color_range)
        sound, sound_seconds = _sound(path)
        return Reading(
            seconds=[frame.pts * frame.time_base for frame in frames if frame.pts is not None],
            sound=sound,
            sound_seconds=sound_seconds,
            colour=tuple(int(tag or 0) for tag in tags),
            aspect=video.sample_aspect_ratio or None,
            turn=first.rotation,
            streams=len(source.streams),
            chapters=len(source.chapters()),
            title=source.metadata.get("title"),
        )


def _frames(source: Any, video: Any) -> Iterator[Any]:
    for packet in source.demux(video):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue  # the product counts these as damage


def _sound(path: Path) -> tuple[list[list[bytes]], list[list[Fraction]]]:
    payloads: dict[int, list[bytes]] = {}
    seconds: dict[int, list[Fraction]] = {}
    with av.open(str(path), metadata_errors="replace") as source:
        if source.streams.audio:
            for packet in source.demux(*source.streams.audio):
                if packet.size and packet.pts is not None:
                    payloads.setdefault(packet.stream_index, []).append(_without_adts(packet))
                    moment = packet.pts * packet.time_base
                    seconds.setdefault(packet.stream_index, []).append(moment)
    return list(payloads.values()), list(seconds.values())


def _without_adts(packet: Any) -> bytes:
    """AAC in a transport stream has a header on each packet that no other container has."""
    content = bytes(packet)
    if (
        content[0] == 0xFF
        and content[1] & 0xF6 == 0xF0
        and packet.stream.codec_context.name == "aac"
    ):
        return content[7 if content[1] & 1 else 9 :]
    return content


def run_integrity(folder: Path, more: Path | None = None) -> Integrity:
    """The good videos of the corpus, and those in the directory ``more`` if it is there."""
    report = Integrity()
    with Upscaler(NearestBackend()) as upscaler:
        for name, path in _sources(folder, more):
            for container in CONTAINERS:
                output = folder / f"result.{container}"
                try:
                    report.videos.append(_judge(name, path, output, upscaler))
                except MediaError as error:
                    report.refused.append(f"{name}: {error.code}")
                    break
                finally:
                    output.unlink(missing_ok=True)
    return report


def _sources(folder: Path, more: Path | None) -> Iterator[tuple[str, Path]]:
    for item in good_videos.items():
        place = folder / "source"
        place.mkdir(exist_ok=True)
        path = place / "upload"
        item.make(path)
        yield item.name, path
    if more is not None and more.is_dir():
        for path in sorted(more.glob("*.mp4")):
            yield path.name, path


def _judge(name: str, path: Path, output: Path, upscaler: Upscaler) -> Video:
    small = {"height": _SMALL} if path.stat().st_size > 200_000 else {}
    options = VideoOptions(real_time=True, limits=command_line_limits(), **small)
    manifest = upscale_video(path, output, upscaler, options)
    before, after = read_video(path), read_video(output)
    video = Video(name, output.suffix[1:], len(before.seconds))
    for check, judge in _JUDGES.items():
        verdict = judge(before, after, manifest)
        if verdict is not None:
            video.checks[check] = verdict
    return video


def _frames_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    counts = {manifest.frames_in, manifest.frames_out, manifest.frames_encoded}
    return counts == {len(before.seconds)} == {len(after.seconds)}


def _times_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    if any("time stamps were missing" in warning for warning in manifest.warnings):
        return None
    if manifest.output["container"] in _EXACT:
        return before.seconds == after.seconds
    moved = [b - a for a, b in zip(before.seconds, after.seconds, strict=True)]
    if "begin" in manifest.output["clock"]:  # everything was shifted to be positive
        return max(moved) - min(moved) <= _TICK
    return max(map(abs, moved)) <= _TICK / 2


def _offset_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    if len(before.sound) != len(after.sound) or not before.sound:
        return None
    moved = after.seconds[0] - before.seconds[0]
    return all(
        abs(there - here - moved) <= _TICK
        for ours, theirs in zip(before.sound_seconds, after.sound_seconds, strict=True)
        for here, there in zip(ours, theirs, strict=False)
        if here >= 0  # what comes before is thrown away by players, and Matroska has no such times
    )


def _sound_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    if not before.sound:
        return None
    dropped = [entry for entry in manifest.dropped if entry["type"] == "audio"]
    return len(after.sound) + len(dropped) == len(before.sound) and all(
        payload in before.sound for payload in after.sound
    )


def _colour_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    pairs = [
        (tag, kept)
        for tag, kept in zip(before.colour, after.colour, strict=True)
        if tag not in _UNSAID
    ]
    is_yuv = manifest.input["pixel_format"].startswith("yuv")
    return all(tag == kept for tag, kept in pairs) if pairs and is_yuv else None


def _shape_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    if before.aspect in (None, 1) and not before.turn:
        return None
    return (before.aspect or 1, before.turn) == (after.aspect or 1, after.turn)


def _streams_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    others = before.streams - 1
    return len(manifest.copied) + len(manifest.dropped) >= others if others else None


def _labels_kept(before: Reading, after: Reading, manifest: Manifest) -> bool | None:
    if not (before.chapters or before.title):
        return None
    return before.chapters == after.chapters and before.title == after.title


def is_cover(stream: Any) -> bool:
    """Whether a video stream is only a cover picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


_JUDGES: dict[str, Callable[[Reading, Reading, Manifest], bool | None]] = {
    "frames": _frames_kept,
    "times": _times_kept,
    "offset": _offset_kept,
    "sound": _sound_kept,
    "colour": _colour_kept,
    "shape": _shape_kept,
    "streams": _streams_kept,
    "labels": _labels_kept,
}
"""Each gives None where there is nothing to compare."""
