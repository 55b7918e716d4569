"""What a job has finished so far as a stream that players can follow: HLS with fragmented MP4.

A job's folder gets a folder ``stream`` as soon as somebody asks: the head of the stream, one
fragment per finished segment, and an index. It is a cache: it can be made again from the segments
while the job runs and from the result afterwards, and goes when nobody has asked for a while.
Packets are copied in a child process; this one only reads the job's ledger.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from server.beside import write_whole
from server.jobs.model import Job, JobFolder
from server.media import ledger as ledgers
from server.media.child import Child
from server.media.errors import EncodeError
from server.media.ledger import Ledger, Row

_CHILD_SECONDS = 600.0
_CLEAN_EVERY_SECONDS = 60.0
_CHILDREN_AT_ONCE = 2
_INDEX = "index.json"
INIT = "init.mp4"


@dataclass
class StreamIndex:
    """What of a job can be played."""

    fingerprint: str = ""
    """Of the segments; other segments make another stream."""
    time_base: str = ""
    base: int | None = None
    """pts of the first frame, which is shown at 0."""
    codecs: str = ""
    width: int = 0
    height: int = 0
    target_seconds: int = 1
    """No fragment is longer."""
    rows: int = 0
    """Of the ledger, that were used."""
    frames: int = 0
    seconds: list[float] = field(default_factory=list)
    """Length of each fragment."""
    ended: bool = False
    """Whether nothing more will come."""

    def playlist(self, query: str = "") -> str:
        """The HLS media playlist; ``query`` is appended to every address in it."""
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:7",
            f"#EXT-X-TARGETDURATION:{self.target_seconds}",
            "#EXT-X-MEDIA-SEQUENCE:0",
            "#EXT-X-PLAYLIST-TYPE:EVENT",
            "#EXT-X-INDEPENDENT-SEGMENTS",
        ]
        if self.seconds:
            lines.append(f'#EXT-X-MAP:URI="stream/{INIT}{query}"')
        for number, seconds in enumerate(self.seconds):
            lines += [f"#EXTINF:{seconds:.6f},", f"stream/{number}.m4s{query}"]
        if self.ended:
            lines.append("#EXT-X-ENDLIST")
        return "\n".join(lines) + "\n"


class Playback:
    """Makes streams on demand, one refresh of a job at a time.

    Args:
        keep_seconds: a stream that nobody has asked for this long is removed.
        segment_seconds: of the jobs' segments.
    """

    def __init__(self, root: Path, keep_seconds: float, segment_seconds: float) -> None:
        self._root = root
        self._keep_seconds = keep_seconds
        self._segment_seconds = segment_seconds
        self._children = asyncio.Semaphore(_CHILDREN_AT_ONCE)
        self._refreshing: dict[str, asyncio.Task[StreamIndex | None]] = {}

    async def index(self, job: Job) -> StreamIndex | None:
        """What can be played of ``job`` now; None while that is nothing.

        Raises:
            EncodeError, DiskFull: it cannot be made.
        """
        task = self._refreshing.get(job.id)
        if task is None:
            task = asyncio.create_task(self._refresh(job))
            self._refreshing[job.id] = task
            task.add_done_callback(lambda _: self._refreshing.pop(job.id, None))
        return await asyncio.shield(task)

    def file(self, job: Job, name: str) -> Path | None:
        """The head or a fragment of the stream; None when it is not there."""
        folder = _folder(JobFolder(self._root / job.id))
        path = folder / name
        try:
            os.utime(folder / _INDEX)
        except FileNotFoundError:
            return None
        return path if path.is_file() else None

    async def clean_for_ever(self) -> None:
        """Removes streams that nobody follows any more."""
        while True:
            await asyncio.to_thread(self._clean, time.time() - self._keep_seconds)
            await asyncio.sleep(min(_CLEAN_EVERY_SECONDS, self._keep_seconds))

    def _clean(self, before: float) -> None:
        for index in self._root.glob(f"*/stream/{_INDEX}"):
            with suppress(FileNotFoundError):  # its job was deleted meanwhile
                if index.stat().st_mtime < before:
                    shutil.rmtree(index.parent, ignore_errors=True)

    async def _refresh(self, job: Job) -> StreamIndex | None:
        async with self._children:
            try:
                return await asyncio.to_thread(self._refresh_now, job)
            except FileNotFoundError:  # the job was deleted meanwhile
                return None

    def _refresh_now(self, job: Job) -> StreamIndex | None:
        folder = JobFolder(self._root / job.id)
        index = _read_index(folder)
        if not index.ended:
            if job.state == "done":
                self._finish(job, folder, index)
            else:
                index = self._follow(folder, index)
        if not index.seconds:
            return None
        os.utime(_folder(folder) / _INDEX)
        return index

    def _follow(self, folder: JobFolder, index: StreamIndex) -> StreamIndex:
        """Adds the segments that were finished since."""
        ledger = ledgers.read(folder.segments)
        if ledger is None:
            return index
        if ledger.header.fingerprint != index.fingerprint:
            shutil.rmtree(_folder(folder), ignore_errors=True)
            index = StreamIndex(ledger.header.fingerprint, ledger.header.time_base)
        finished = _from_the_start(ledger)
        if len(finished) == index.rows:
            return index
        _folder(folder).mkdir(mode=0o700, exist_ok=True)
        index.target_seconds = max(index.target_seconds, self._target_seconds(ledger))
        try:
            with Child("server.media.fragment_child", "joining") as child:
                for row, end in _with_ends(ledger, finished, index.rows):
                    _add_segment(child, folder, index, row, end)
                    write_whole(_folder(folder) / _INDEX, json.dumps(asdict(index)).encode())
        except (EncodeError, FileNotFoundError):
            if folder.segments.is_dir() and (folder.segments / ledgers.FILE_NAME).exists():
                raise
            # The job has just ended and its segments are gone: the result has what is missing.
        return index

    def _finish(self, job: Job, folder: JobFolder, index: StreamIndex) -> None:
        """Adds what is not there yet from the finished result."""
        assert job.result_name is not None
        _folder(folder).mkdir(mode=0o700, exist_ok=True)
        command = {
            "type": "result",
            "source": str(folder.path / job.result_name),
            "folder": str(_folder(folder)),
            "init": None if index.seconds else str(_folder(folder) / INIT),
            "time_base": index.time_base or None,
            "base": index.base,
            "skip": index.frames,
            "number": len(index.seconds),
            "seconds": self._segment_seconds,
        }
        with Child("server.media.fragment_child", "joining") as child:
            child.send(command)
            done = child.receive(_CHILD_SECONDS)
        clock = Fraction(done["time_base"])
        _take_facts(index, done)
        for made in done["made"]:
            index.frames += made["frames"]
            index.seconds.append(float(made["ticks"] / Fraction(clock.denominator)))
        index.target_seconds = max(index.target_seconds, *map(math.ceil, index.seconds))
        index.time_base, index.ended = done["time_base"], True
        write_whole(_folder(folder) / _INDEX, json.dumps(asdict(index)).encode())

    def _target_seconds(self, ledger: Ledger) -> int:
        """The longest fragment there will be, as far as that is known before."""
        clock, cuts = Fraction(ledger.header.time_base), ledger.header.cuts or []
        planned = [after - before for before, after in pairwise(cuts)]
        made = [row.pts[-1] - row.pts[0] + row.durations[-1] for row in ledger.rows if row.pts]
        longest = max((float(ticks * clock) for ticks in (*planned, *made)), default=0.0)
        return math.ceil(max(longest, self._segment_seconds + 1))


def _add_segment(child: Child, folder: JobFolder, index: StreamIndex, row: Row, end: int) -> None:
    index.rows += 1
    if not row.pts:  # a segment whose frames were all damaged
        return
    if index.base is None:
        index.base = row.pts[0]
    number = len(index.seconds)
    child.send(
        {
            "type": "segment",
            "source": str(folder.segments / row.file),
            "output": str(_folder(folder) / f"{number}.m4s"),
            "init": None if number else str(_folder(folder) / INIT),
            "time_base": index.time_base,
            "pts": [pts - index.base for pts in row.pts],
            "order": row.order,
            "end": end - index.base,
            "number": number,
        }
    )
    _take_facts(index, child.receive(_CHILD_SECONDS))
    index.frames += len(row.pts)
    index.seconds.append(float((end - row.pts[0]) * Fraction(index.time_base)))


def _take_facts(index: StreamIndex, done: dict[str, Any]) -> None:
    index.codecs, index.width, index.height = done["codecs"], done["width"], done["height"]


def _from_the_start(ledger: Ledger) -> list[Row]:
    """The finished segments without a gap before them."""
    if ledger.header.cuts is None:
        return ledger.rows
    rows = []
    for number, row in enumerate(ledger.rows):
        if row.file != ledgers.segment_name(number):
            break
        rows.append(row)
    return rows


def _with_ends(ledger: Ledger, rows: list[Row], used: int) -> Iterator[tuple[Row, int]]:
    """Each row after ``used`` with the pts at which the next one begins."""
    cuts, shift = ledger.header.cuts, ledger.header.shift
    for number in range(used, len(rows)):
        row = rows[number]
        following = next((later.pts[0] for later in rows[number + 1 :] if later.pts), None)
        if following is None and cuts is not None and number < len(cuts):
            following = cuts[number] - shift
        if following is None and row.pts:
            following = row.pts[-1] + max(1, row.durations[-1])
        yield row, following or 0


def _folder(folder: JobFolder) -> Path:
    return folder.path / "stream"


def _read_index(folder: JobFolder) -> StreamIndex:
    path = _folder(folder) / _INDEX
    try:
        os.utime(path)  # now, and not only when it is up to date: until then it could be cleaned
        return StreamIndex(**json.loads(path.read_text()))
    except FileNotFoundError:
        return StreamIndex()
