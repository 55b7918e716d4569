"""The integrity ledger: good videos there and back, and what of them arrived.

An independent reading (plain PyAV) of the source and of the result, compared with each other and
with what the manifest says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from engine.backends.nearest import NearestBackend
from engine.upscaler import Upscaler
from server.manifest import Manifest
from server.media.errors import EncodeError, MediaError
from server.media.limits import command_line_limits
from server.session import upscale_video
from server.video_options import VideoOptions
from tests.corpus import good_videos
from tests.corpus.build import CORPUS
from tests.reliability.readings import Reading, read_video

CONTAINERS = ("mp4", "mov", "mkv")
_EXACT = ("mp4", "mov")
_TICK = Fraction(1, 1000)
"""Of Matroska's clock, in seconds."""
_UNSAID = (None, 0, 2)
_SMALL = 256
"""Height from which results are made smaller again, to be written in a reasonable time."""


@dataclass
class Video:
    """One video in one container."""

    name: str
    container: str
    frames: int
    checks: dict[str, bool] = field(default_factory=dict)
    """Those that apply."""


Session = Callable[[Path, Path, Upscaler, VideoOptions], Manifest]
"""What is judged; the product's is ``upscale_video``."""


@dataclass
class Integrity:
    """All of them."""

    sources: list[str] = field(default_factory=list)
    videos: list[Video] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Sources and the code of their refusal."""

    def totals(self) -> Iterator[tuple[str, str, int, int]]:
        """(what, wanted, how many are right, of how many), one for each check."""
        for check, (what, wanted) in CHECKS.items():
            found = [video.checks[check] for video in self.videos if check in video.checks]
            yield what, wanted, sum(found), len(found)

    def judged(self) -> list[str]:
        """Sources of which there is a result in every container."""
        results = [video.name for video in self.videos]
        return [name for name in self.sources if results.count(name) == len(CONTAINERS)]

    def red(self) -> list[str]:
        """Results with anything wrong."""
        return [
            f"{video.name} in {video.container}"
            for video in self.videos
            if not all(video.checks.values())
        ]


def expected_refusals() -> dict[str, str]:
    """Good videos that the service refuses, as corpus.json has it, and the code of each."""
    outcomes = json.loads(CORPUS.read_text())["outcomes"]
    names = [item.name for item in good_videos.items()]
    return {name: outcomes[name]["code"] for name in names if "code" in outcomes[name]}


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


def run_integrity(
    folder: Path,
    more: Path | None = None,
    *,
    session: Session = upscale_video,
    only: Collection[str] = (),
) -> Integrity:
    """The good videos of the corpus, or ``only`` those of these names, and those in ``more``.

    Args:
        folder: for what is made.
        more: a directory with further videos, if it is there.
        session: makes a result; another one than the product's as a positive control.
        only: names.
    """
    report = Integrity()
    with Upscaler(NearestBackend()) as upscaler:
        for name, path in _sources(folder, more, only):
            report.sources.append(name)
            for container in CONTAINERS:
                output = folder / f"result.{container}"
                try:
                    report.videos.append(_judge(name, path, output, Work(session, upscaler)))
                except EncodeError:  # what it had was not enough: frames are lost
                    report.videos.append(Video(name, container, 0, {"frames": False}))
                except MediaError as error:
                    report.refused[name] = error.code
                    break
                finally:
                    output.unlink(missing_ok=True)
    return report


@dataclass(frozen=True)
class Work:
    """What makes a result."""

    session: Session
    upscaler: Upscaler


def _sources(folder: Path, more: Path | None, only: Collection[str]) -> Iterator[tuple[str, Path]]:
    for item in good_videos.items():
        if only and item.name not in only:
            continue
        place = folder / "source"
        place.mkdir(exist_ok=True)
        path = place / "upload"
        item.make(path)
        yield item.name, path
    if more is not None and more.is_dir():
        for path in sorted(more.glob("*.mp4")):
            yield path.name, path


def _judge(name: str, path: Path, output: Path, work: Work) -> Video:
    small = {"height": _SMALL} if path.stat().st_size > 200_000 else {}
    options = VideoOptions(real_time=True, limits=command_line_limits(), **small)
    manifest = work.session(path, output, work.upscaler, options)
    before, after = read_video(path), read_video(output)
    video = Video(name, output.suffix[1:], len(before.seconds))
    for check, judge in JUDGES.items():
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
    if len(before.seconds) != len(after.seconds):
        return False
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


JUDGES: dict[str, Callable[[Reading, Reading, Manifest], bool | None]] = {
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
