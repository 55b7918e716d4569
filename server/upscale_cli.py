"""``sr-upscale IN OUT``: a picture, a video or a folder of pictures, four times larger.

What IN is comes from its first bytes, never from its name. Everything a person should know goes to
stderr; the exit code is 0, 2 for anything that was wrong, 130 after ^C, 143 after SIGTERM.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.command_line import parse_command_line
from engine.errors import EngineError
from engine.selection import OnProgress, open_backend
from engine.upscaler import Upscaler
from server.beside import write_whole
from server.cluster.maker import EngineChoice
from server.cluster.video import ClusterOptions, upscale_on_cluster
from server.interrupts import Interrupted, Interrupts
from server.manifest import Manifest
from server.media.codecs import DEFAULT_CODEC, find_codec
from server.media.errors import Cancelled, EncodeError, MediaError
from server.media.sniff import sniff_file
from server.picture_files import FolderReport, PictureFiles, pictures_in, upscale_folder
from server.picture_session import PictureOptions
from server.progress import folder_bar, video_bar
from server.session import upscale_video
from server.upscale_arguments import (
    Arguments,
    UsageError,
    check_arguments,
    check_target,
    parse_arguments,
    parse_size,
    refuse,
    with_address,
)
from server.video_options import VideoOptions

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    chosen = parse_command_line("sr-upscale", with_address(given), parse_arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    interrupts = Interrupts()
    try:
        with interrupts:
            return run(chosen, console, interrupts)
    except (Interrupted, Cancelled):
        _say(console, "interrupted; nothing was left half-written")
        return interrupts.exit_code
    except (UsageError, MediaError, EncodeError, EngineError) as error:
        _say(console, f"error: {error}")
    except OSError as error:
        place = "" if error.filename is None else f"{Path(str(error.filename)).name}: "
        _say(console, f"error: {place}{error.strerror or error}.")
    return BAD_INPUT


def run(chosen: Arguments, console: Console, interrupts: Interrupts) -> int:
    """Does what was asked for; 2 when a picture of a folder failed.

    Raises:
        UsageError, MediaError, EncodeError, EngineError, OSError: one sentence each.
        Interrupted, Cancelled: a signal came.
    """
    size = parse_size(chosen.size)
    check_arguments(chosen)
    if chosen.source.is_dir():
        return _run_folder(chosen, size, console)
    if sniff_file(chosen.source).kind == "picture":
        _run_picture(chosen, size, console)
    else:
        _run_video(chosen, size, console, interrupts)
    return 0


def _refuse_video_options(chosen: Arguments, what: str) -> None:
    names = ("start", "end", "codec", "cluster")
    refuse(chosen, what, **{name: getattr(chosen, name) for name in names})


def _run_picture(chosen: Arguments, size: tuple[int, int] | None, console: Console) -> None:
    _refuse_video_options(chosen, "a picture")
    check_target(chosen, "picture")
    with _opened(chosen, console) as upscaler, _picture_files(chosen, size, upscaler) as files:
        manifest = files.upscale(chosen.source, chosen.target)
    for note in manifest["notes"]:
        _say(console, f"note: {note}")
    result = manifest["output"]
    _say(console, f"{chosen.target}: {result['width']}x{result['height']}, {manifest['seconds']} s")
    _write_manifest(chosen, manifest)


def _run_folder(chosen: Arguments, size: tuple[int, int] | None, console: Console) -> int:
    _refuse_video_options(chosen, "pictures")
    if chosen.target.exists() and not chosen.target.is_dir():
        raise UsageError(f"{chosen.target} is a file; a folder of pictures needs a folder as OUT.")
    if chosen.target.resolve() == chosen.source.resolve():
        raise UsageError("IN and OUT are the same folder; name another one.")
    pictures, ignored = pictures_in(chosen.source)
    if not pictures:
        raise UsageError(f"There are no pictures (PNG, JPEG, WebP) in {chosen.source}.")
    with (
        _opened(chosen, console) as upscaler,
        _picture_files(chosen, size, upscaler) as files,
        folder_bar(console, len(pictures)) as on_start,
    ):
        report = upscale_folder(
            files, pictures, chosen.target, overwrite=chosen.overwrite, on_start=on_start
        )
    _tell_folder(report, ignored, console)
    _write_manifest(chosen, _folder_manifest(report))
    return BAD_INPUT if report.failed else 0


def _run_video(
    chosen: Arguments, size: tuple[int, int] | None, console: Console, interrupts: Interrupts
) -> None:
    refuse(chosen, "a video", best=chosen.best, **{"strip-gps": chosen.strip_gps})
    check_target(chosen, "video")
    codec = chosen.codec or DEFAULT_CODEC
    find_codec(codec)
    options = VideoOptions(
        codec=codec,
        quality=chosen.quality,
        height=chosen.height,
        size=size,
        start_seconds=chosen.start,
        end_seconds=chosen.end,
    )
    upscale = _upscale_on_cluster if chosen.cluster is not None else _upscale_here
    manifest = upscale(chosen, options, console, interrupts)
    for stream in manifest.dropped:
        what = " ".join(str(stream[key]) for key in ("type", "codec") if key in stream)
        number = f"stream {stream['index']} " if "index" in stream else ""
        _say(console, f"dropped: {number}({what}): {stream['reason']}")
    for warning in manifest.warnings:
        _say(console, f"warning: {warning}")
    _say(
        console,
        f"{chosen.target}: {manifest.output['width']}x{manifest.output['height']}, "
        f"{manifest.frames_out} frames, {manifest.fps:.1f} fps",
    )
    _write_manifest(chosen, {"kind": "video", **manifest.to_dict()})


def _upscale_here(
    chosen: Arguments, options: VideoOptions, console: Console, interrupts: Interrupts
) -> Manifest:
    with (
        _opened(chosen, console) as upscaler,
        video_bar(console, chosen.source.name) as feed,
        interrupts.deferred(),
    ):
        return upscale_video(
            chosen.source, chosen.target, upscaler, options, feed, cancelled=interrupts.asked
        )


def _upscale_on_cluster(
    chosen: Arguments, options: VideoOptions, console: Console, interrupts: Interrupts
) -> Manifest:
    path = Path(chosen.model)
    weights = path.read_bytes() if path.is_file() else None
    engine = EngineChoice(chosen.backend, chosen.model, chosen.threads, weights)
    cluster = ClusterOptions(chosen.cluster or "auto", engine)
    with video_bar(console, chosen.source.name) as feed, interrupts.deferred():
        manifest = upscale_on_cluster(
            chosen.source, chosen.target, cluster, options, feed, cancelled=interrupts.asked
        )
    ran = manifest.backend
    _say(console, f"backend {ran['name']} {ran['version']} on the cluster's {ran['device']}")
    return manifest


@contextmanager
def _opened(chosen: Arguments, console: Console) -> Iterator[Upscaler]:
    backend = open_backend(
        chosen.backend,
        chosen.model,
        threads=chosen.threads,
        on_progress=_build_reporter(console),
    )
    with Upscaler(backend) as upscaler:
        info = upscaler.info
        model = f", model {info.model}" if info.model else ""
        reason = f" ({info.detail['reason']})" if "reason" in info.detail else ""
        _say(console, f"backend {info.name} {info.version} on {info.device}{model}{reason}")
        yield upscaler


def _build_reporter(console: Console) -> OnProgress:
    """Says every tenth of the way to a plan, whose first build takes minutes."""
    last = ("", -1)

    def on_progress(fraction: float, phase: str) -> bool:
        nonlocal last
        step = (phase, int(fraction * 10))
        if step != last:
            last = step
            _say(console, f"building the plan ({phase}): {step[1] * 10} %")
        return True

    return on_progress


def _picture_files(
    chosen: Arguments, size: tuple[int, int] | None, upscaler: Upscaler
) -> PictureFiles:
    options = PictureOptions(
        quality=chosen.quality, height=chosen.height, size=size, best=chosen.best
    )
    return PictureFiles(upscaler, options, keep_gps=not chosen.strip_gps)


def _tell_folder(report: FolderReport, ignored: int, console: Console) -> None:
    for manifest in report.done:
        for note in manifest["notes"]:
            _say(console, f"note: {manifest['input']['name']}: {note}")
    counts = f"{len(report.done)} done, {len(report.skipped)} skipped (finished earlier)"
    others = f", {ignored} other files ignored" if ignored else ""
    _say(console, f"{counts}, {len(report.failed)} failed{others}")
    for name, message in report.failed.items():
        _say(console, f"failed: {name}: {message}")


def _folder_manifest(report: FolderReport) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "folder",
        "pictures": report.done,
        "skipped": report.skipped,
        "failed": report.failed,
    }


def _write_manifest(chosen: Arguments, manifest: dict[str, Any]) -> None:
    if chosen.manifest is not None:
        write_whole(chosen.manifest, (json.dumps(manifest, indent=2) + "\n").encode())


def _say(console: Console, text: str) -> None:
    console.print(f"sr-upscale: {text}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
