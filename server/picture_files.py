"""Picture files on this machine: one, or a folder of them, each written whole or not at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.closing import Closing
from engine.errors import EngineError
from engine.upscaler import Upscaler
from server.beside import write_whole
from server.media.errors import MediaError, UnsupportedMedia
from server.media.pictures import SUFFIXES, PictureLimits
from server.media.sniff import Sniffed, sniff_file
from server.picture_decoder import PictureDecoder
from server.picture_session import PictureOptions, upscale_picture

COMMAND_LINE_LIMITS = PictureLimits(
    max_bytes=512 * 2**20, max_pixels=25_000_000, max_side=16_383, decode_seconds=120
)
"""For files that the user chose on their own machine: only memory safety is left. The largest
picture becomes 400 megapixels, which is 1.2 GB before it is encoded."""


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What became of every picture of a folder, by file name."""

    done: list[dict[str, Any]] = field(default_factory=list)
    """Manifests."""
    skipped: list[str] = field(default_factory=list)
    """Finished earlier."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name -> one sentence."""
    ignored: int = 0
    """Files that are not pictures and do not claim to be."""


class PictureFiles(Closing):
    """Upscales picture files with one upscaler, which stays open."""

    def __init__(self, upscaler: Upscaler, options: PictureOptions, *, keep_gps: bool) -> None:
        self._upscaler = upscaler
        self._options = options
        self._keep_gps = keep_gps
        self._decoder = PictureDecoder()

    def upscale(self, source: Path, target: Path) -> dict[str, Any]:
        """``source`` -> ``target``, whose ending names the format. Returns the manifest.

        Raises:
            MediaError, EngineError: what is wrong with the picture or the backend.
            OSError: a file cannot be read or written.
        """
        began = time.monotonic()
        content = source.read_bytes()
        picture = self._decoder.decode(content, COMMAND_LINE_LIMITS, keep_gps=self._keep_gps)
        options = replace(self._options, format=SUFFIXES[target.suffix.lower()])
        result = upscale_picture(picture, self._upscaler, options)
        write_whole(target, result.data)
        return {
            "schema": 1,
            "kind": "picture",
            "input": {
                "name": source.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "format": picture.format,
                "width": picture.width,
                "height": picture.height,
            },
            "output": {
                "name": target.name,
                "sha256": hashlib.sha256(result.data).hexdigest(),
                "format": result.format,
                "width": result.width,
                "height": result.height,
            },
            "best": options.best,
            "notes": list(result.notes),
            "backend": asdict(self._upscaler.info),
            "seconds": round(time.monotonic() - began, 3),
        }

    def close(self) -> None:
        """Ends the decoder; the upscaler is the caller's."""
        self._decoder.close()


def picture_kind(path: Path) -> Sniffed | None:
    """What the first bytes of a file say; None when they say nothing that is supported."""
    try:
        return sniff_file(path)
    except UnsupportedMedia:
        return None


def pictures_in(folder: Path) -> tuple[list[tuple[Path, str]], int]:
    """(picture, name of its result) sorted by name, and how many other files there are.

    A picture is what begins like one, or is called like one: a broken ``a.png`` is a failure to
    report, a ``notes.txt`` is not. Hidden files and sub-folders are not looked at. The result is
    called like the picture, with a second ending where the first does not say what it holds.
    """
    found: list[tuple[Path, str]] = []
    others = 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        kind = picture_kind(path)
        claimed = SUFFIXES.get(path.suffix.lower())
        if kind is not None and kind.kind == "picture":
            fits = claimed == kind.name
            found.append((path, path.name if fits else f"{path.name}.{kind.name}"))
        elif claimed is not None:
            found.append((path, path.name))
        else:
            others += 1
    return found, others


def upscale_folder(
    files: PictureFiles,
    pictures: list[tuple[Path, str]],
    target: Path,
    *,
    overwrite: bool,
    on_start: Callable[[str], None],
) -> FolderReport:
    """Upscales each picture into ``target``, which is made; a bad one does not stop the others.

    ``on_start`` is told the name before each file. Raises OSError when ``target`` cannot be made.
    """
    target.mkdir(parents=True, exist_ok=True)
    report = FolderReport()
    for source, name in _announced(pictures, on_start):
        if (target / name).exists() and not overwrite:
            report.skipped.append(source.name)
            continue
        try:
            report.done.append(files.upscale(source, target / name))
        except (MediaError, EngineError) as error:
            report.failed[source.name] = str(error)
        except OSError as error:
            report.failed[source.name] = f"{error.strerror or error}."
    return report


def _announced(
    pictures: list[tuple[Path, str]], on_start: Callable[[str], None]
) -> Iterator[tuple[Path, str]]:
    for source, name in pictures:
        on_start(source.name)
        yield source, name
