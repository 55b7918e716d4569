"""Into which segments a video is cut: decided once, from the file alone, and then kept.

The plan does not depend on how many workers there are, so that one of them makes the same segments
as many do. Cuts are key frames of the source that nothing reaches across; a video without enough of
them has no plan and is made in one go.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

from engine.backends.base import BackendInfo
from server.media import ledger as ledgers
from server.media.codecs import ContainerName
from server.media.decode import DecodeOptions, Decoder
from server.media.encode import checked_codec
from server.media.ledger import Header, Ledger
from server.media.probe import VideoInfo, info_to_message
from server.media.scan import KeyFrames, find_key_frames
from server.session import decode_options, encode_options, pts_shift
from server.video_options import VideoOptions

SEGMENT_SECONDS = 10.0
FIRST_SECONDS = 2.0
"""The first segment is at most this long and each next one twice as long as the one before, up to
``SEGMENT_SECONDS``: who watches a job waits for one segment, and each costs an encoder's start."""
LONGEST_SEGMENTS = 4
"""A video whose safe key frames are farther apart than this many segments has no plan: a worker
that is killed must not lose minutes."""
_SAMPLE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Work:
    """A video to be made in segments: what, where and how; not by whom."""

    source: Path
    """A real file; the same bytes at every call."""
    folder: Path
    """An existing folder for segments, nobody else's."""
    options: VideoOptions
    container: ContainerName
    """Of the result."""
    segment_seconds: float = SEGMENT_SECONDS


def prepare(work: Work, backend: BackendInfo, check: Callable[[], None]) -> Ledger:
    """The ledger of ``work``: the one in its folder if it fits and is intact, else a new one.

    Args:
        work: see there.
        backend: who will run the frames; another network starts anew.
        check: called while waiting; raises to give up.

    Raises:
        UnsupportedMedia, UnusableMedia, OverLimit: the input.
        CodecUnavailable: the output.
    """
    mark = fingerprint(work, backend)
    ledger = ledgers.read_valid(work.folder, mark)
    return ledger or ledgers.start(work.folder, _plan(work, mark, check))


def fingerprint(work: Work, backend: BackendInfo) -> str:
    """Of everything that makes two jobs different."""
    digest = hashlib.sha256(source_mark(work.source).encode())
    facts: list[object] = [asdict(work.options), work.container]
    facts += [backend.name, backend.model, backend.onnx_sha256]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def source_mark(source: Path) -> str:
    """Of a file's size and its first and last MiB: enough to tell uploads apart."""
    size = source.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with source.open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(size - _SAMPLE_BYTES, 0))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def span_options(work: Work, header: Header, numbers: range) -> DecodeOptions:
    """What the decoder is asked for to make the consecutive segments ``numbers``."""
    cuts = header.cuts or []
    return replace(
        decode_options(work.options),
        from_pts=cuts[numbers[0] - 1] if numbers[0] > 0 else None,
        until_pts=cuts[numbers[-1]] if numbers[-1] < len(cuts) else None,
        described=header.video,
    )


def segment_ticks(work: Work, time_base: Fraction, number: int) -> int:
    """How long segment ``number``, from 0, should be in units of ``time_base``; at least 1."""
    ramp = FIRST_SECONDS * 2 ** min(number, 30)
    return max(round(Fraction(str(min(ramp, work.segment_seconds))) / time_base), 1)


def choose_cuts(
    keys: Sequence[int], first: int, last: int, lengths: Callable[[int], int], longest: int
) -> list[int] | None:
    """Every key frame that comes long enough after the cut before it.

    Args:
        keys: where a cut is possible, in order.
        first: pts of the first frame that is wanted.
        last: pts of the last one.
        lengths: number of a segment -> ticks that it should have.
        longest: ticks that none may exceed.

    Returns:
        The cuts; None when there are none or some are too far apart.
    """
    cuts: list[int] = []
    for key in keys:
        if key <= last and key - (cuts[-1] if cuts else first) >= lengths(len(cuts)):
            cuts.append(key)
    places = [first, *cuts, last]
    fits = all(after - before <= longest for before, after in pairwise(places))
    return cuts if cuts and fits else None


def _plan(work: Work, mark: str, check: Callable[[], None]) -> Header:
    with Decoder(work.source, decode_options(work.options), check) as decoder:
        info = decoder.info
    checked_codec(encode_options(info, work.options, work.container))
    shift = pts_shift(info, work.options)
    header = Header(mark, str(info.time_base), shift, video=info_to_message(info))
    duration = info.duration_seconds
    if duration is not None and duration <= work.segment_seconds:
        return header
    found = find_key_frames(work.source, work.options.limits, check)
    cuts = None if found.problem else _cuts(work, info, found)
    return header if cuts is None else replace(header, cuts=cuts, packets=found.packets)


def _cuts(work: Work, info: VideoInfo, found: KeyFrames) -> list[int] | None:
    last = found.last_pts
    if work.options.end_seconds is not None:
        end = info.start_seconds + Fraction(str(work.options.end_seconds))
        last = min(last, math.ceil(end / info.time_base) - 1)
    lengths = partial(segment_ticks, work, info.time_base)
    longest = LONGEST_SEGMENTS * max(round(Fraction(str(work.segment_seconds)) / info.time_base), 1)
    return choose_cuts(found.keys, info.start_pts, last, lengths, longest)
