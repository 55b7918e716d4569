"""The truth about a job in segments: which frames are finished, and when each is shown.

A video that can be cut at key frames has a plan in its header: then segments are made in any order,
by anybody. Without one they are made one after the other.

One JSON object a line, appended and flushed to the disk after its segment is there under its own
name. Segments never carry the truth: their clock is too coarse; the final file takes every time
stamp from here. Shared by the job and the child that joins the segments, so it imports little.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "ledger.jsonl"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Header:
    """What the segments belong to; another one means another job."""

    fingerprint: str
    """Of source, options and network."""
    time_base: str
    shift: int
    """Already subtracted from every pts."""
    schema: int = SCHEMA
    cuts: list[int] | None = None
    """The plan: where each segment but the first begins, in pts of the source."""
    packets: int = 0
    """Of a video that is cut."""
    video: dict[str, Any] | None = None
    """``info_to_message`` of the whole video."""


@dataclass(frozen=True, slots=True)
class Row:
    """One finished segment."""

    file: str
    """Name within the folder."""
    sha256: str
    pts: list[int]
    """Of each frame, in presentation order, in ``Header.time_base`` units."""
    durations: list[int]
    order: list[int]
    """Of each packet, in decoding order: which frame of the segment it is."""
    reused: int = 0
    counted: dict[str, Any] = field(default_factory=dict)
    """Of a planned segment: what the decoder counted since the one before it that says so."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is on the disk."""

    header: Header
    rows: list[Row]
    summary: dict[str, Any] | None = None
    """What the decoder counted, once it has seen the end of the video."""

    @property
    def frames(self) -> int:
        """Finished frames."""
        return sum(len(row.pts) for row in self.rows)

    @property
    def missing(self) -> list[int]:
        """Numbers of the planned segments that are not finished."""
        made = {row.file for row in self.rows}
        count = len(self.header.cuts or ()) + 1
        return [number for number in range(count) if segment_name(number) not in made]

    @property
    def last_pts(self) -> int | None:
        """Of the last finished frame."""
        return self.rows[-1].pts[-1] if self.rows else None


def segment_name(number: int) -> str:
    """File name of a segment within its folder."""
    return f"segment-{number:05d}.mkv"


def read(folder: Path) -> Ledger | None:
    """The ledger in ``folder``, or None when there is none.

    What follows a line that is torn, or that a crash of the machine left as anything, is ignored.
    """
    try:
        lines = (folder / FILE_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    entries: list[dict[str, Any]] = []
    rows: list[Row] = []
    try:
        for line in lines:
            entries.append(dict(json.loads(line)))
            rows += [Row(**entries[-1]["row"])] if "row" in entries[-1] else []
    except (ValueError, TypeError):
        pass
    if not entries or entries[0].get("schema") != SCHEMA:
        return None
    try:
        header = Header(**entries[0])
    except TypeError:
        return None
    if header.cuts is not None:  # written as they were finished; one that was made again is last
        newest = {row.file: row for row in rows}
        rows = [newest[name] for name in sorted(newest)]
    summaries = [entry["summary"] for entry in entries[1:] if "summary" in entry]
    return Ledger(header, rows, summaries[-1] if summaries else None)


def read_valid(folder: Path, fingerprint: str) -> Ledger | None:
    """Like ``read``, but only what belongs to this job and whose segments are intact.

    Files that are not part of it are removed, so that the folder holds nothing else.
    """
    ledger = read(folder)
    if ledger is None or ledger.header.fingerprint != fingerprint:
        _clear(folder, set())
        return None
    good: list[Row] = []
    for row in ledger.rows:
        # A segment of a plan without frames (all were damaged) has no file.
        if row.pts and not _intact(folder / row.file, row.sha256):
            if ledger.header.cuts is None:
                break
            continue
        good.append(row)
    if len(good) != len(ledger.rows):
        ledger = Ledger(ledger.header, good)
    _rewrite(folder, ledger)
    _clear(folder, {FILE_NAME, *(row.file for row in good)})
    return ledger


def start(folder: Path, header: Header) -> Ledger:
    """A new, empty ledger in ``folder``."""
    ledger = Ledger(header, [])
    _rewrite(folder, ledger)
    return ledger


def append(folder: Path, entry: Row | dict[str, Any]) -> None:
    """Adds a finished segment, or the decoder's summary at the end; on the disk on return."""
    value = {"row": asdict(entry)} if isinstance(entry, Row) else {"summary": entry}
    with (folder / FILE_NAME).open("a") as file:
        file.write(json.dumps(value, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _intact(path: Path, sha256: str) -> bool:
    try:
        return file_sha256(path) == sha256
    except OSError:
        return False


def _rewrite(folder: Path, ledger: Ledger) -> None:
    lines = [json.dumps(asdict(ledger.header))]
    lines += [json.dumps({"row": asdict(row)}, separators=(",", ":")) for row in ledger.rows]
    if ledger.summary is not None:
        lines.append(json.dumps({"summary": ledger.summary}))
    partial = folder / f"{FILE_NAME}.part"
    with partial.open("w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / FILE_NAME)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in keep and path.is_file():
            # A worker of a server that was killed may still rename its last segment.
            path.unlink(missing_ok=True)
