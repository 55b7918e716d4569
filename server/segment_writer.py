"""One segment of a video as a file of its own: closed, durable, and under its name only when whole.

Any process may write any segment; what says that it is finished (the ledger) is somebody else's.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from server.flow import Upscaled
from server.media import ledger as ledgers
from server.media.encode import EncodeOptions, Encoder
from server.media.errors import EncodeError
from server.media.ledger import Row
from server.media.timing import Stages

_SEGMENT_CLOCK = Fraction(1, 1000)
"""Matroska's. The real times are in the ledger; these only have to be in order."""


@dataclass
class SegmentWriter:
    """Writes one segment after the other into ``folder``."""

    folder: Path
    encode: EncodeOptions
    """Of the result; its container and clock are replaced."""
    check: Callable[[], None]
    """Called while waiting; raises to give up."""
    stages: list[Stages] = field(default_factory=list)
    """How long the frames of each finished segment took to encode."""
    _encoder: Encoder | None = None
    _partial: Path | None = None
    _pts: list[int] = field(default_factory=list)
    _durations: list[int] = field(default_factory=list)
    _reused: int = 0

    @property
    def first_pts(self) -> int | None:
        """Of the segment that is being written; None between two."""
        return self._pts[0] if self._pts else None

    def put(self, upscaled: Upscaled) -> None:
        """Takes the next frame; the first of a segment must not be a repetition."""
        if self._encoder is None:
            # A name of its own: the encoder of a worker that was killed may still be writing.
            self._partial = self.folder / f"segment-{secrets.token_hex(6)}.mkv.part"
            self._encoder = Encoder(self._options(), None, self._partial, self.check)
        place = self._place(len(self._pts))
        length = self._place(len(self._pts) + 1) - place
        if upscaled.frame is None:
            self._encoder.repeat(place, length)
            self._reused += 1
        else:
            self._encoder.put(upscaled.frame, place, length)
        self._pts.append(upscaled.pts)
        self._durations.append(upscaled.duration)

    def finish(self, number: int) -> Row:
        """Makes the segment durable as ``number`` and returns what the ledger has to know."""
        if self._encoder is None or self._partial is None:
            return Row(ledgers.segment_name(number), "", [], [], [])
        summary = self._encoder.finish()
        self.stages.append({name: dict(times) for name, times in summary.stages.items()})
        self.close()
        rank = {place: index for index, place in enumerate(sorted(summary.packet_pts))}
        if len(rank) != len(self._pts):
            raise EncodeError(
                f"Frames were lost ({len(self._pts)} upscaled, {len(rank)} written); "
                "this is a bug, please report it."
            )
        final = self.folder / ledgers.segment_name(number)
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        digest = ledgers.file_sha256(self._partial)
        self._partial.replace(final)
        ledgers.sync_folder(self.folder)
        order = [rank[place] for place in summary.packet_pts]
        row = Row(final.name, digest, self._pts, self._durations, order, self._reused)
        self._pts, self._durations, self._reused = [], [], 0
        return row

    def close(self) -> None:
        """Ends the encoder of an unfinished segment."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _place(self, index: int) -> int:
        """Milliseconds of frame ``index`` within its segment: even, and never two alike."""
        rate = self.encode.rate or Fraction(25)
        return index if rate > 500 else round(index * 1000 / rate)

    def _options(self) -> EncodeOptions:
        return replace(self.encode, container="mkv", time_base=_SEGMENT_CLOCK, display_matrix=None)
