"""A long video in segments, so that nothing finished is ever made twice.

Each segment is encoded on its own (closed, at most some seconds long), written beside, flushed to
the disk, renamed, and entered into a ledger with the times of its frames. A job that was killed
goes on after its last segment. At the end the segments are joined without encoding anything again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from server.beside import written_beside
from server.flow import FrameFlow, FrameUpscaler, Upscaled
from server.manifest import Manifest
from server.media import ledger as ledgers
from server.media.codecs import ContainerName
from server.media.decode import Decoder, DecodeSummary, probe
from server.media.encode import EncodeOptions, Encoder, checked_codec, join_segments
from server.media.errors import EncodeError, UnusableMedia
from server.media.ledger import Header, Ledger, Row
from server.media.probe import VideoInfo
from server.report import Facts, build_manifest
from server.session import (
    check_complete,
    checker,
    companions,
    decode_options,
    encode_options,
    progress_reporter,
    pts_shift,
)
from server.video_options import OnProgress, VideoOptions, choose_container, expected_frames

SEGMENT_SECONDS = 10.0
_SEGMENT_CLOCK = Fraction(1, 1000)
"""Matroska's. The real times are in the ledger; these only have to be in order."""
_SAMPLE_BYTES = 1024 * 1024


def upscale_in_segments(
    source: Path,
    output: Path,
    folder: Path,
    upscaler: FrameUpscaler,
    options: VideoOptions | None = None,
    on_progress: OnProgress | None = None,
    *,
    cancelled: Callable[[], bool] = bool,
    segment_seconds: float = SEGMENT_SECONDS,
) -> Manifest:
    """``upscale_video`` that survives being killed: call it again with the same arguments.

    Args:
        source: a real file; the same bytes at every call.
        output: written beside and renamed at the end.
        folder: an existing folder for segments, nobody else's; the caller removes it at the end.
        upscaler: runs the frames; stays open.
        options: what the user chose. Other options or another network start anew.
        on_progress: called after every frame; frames of earlier calls are counted.
        cancelled: asked for every frame.
        segment_seconds: a segment ends at the first new frame after this long.

    Raises:
        As ``server.session.upscale_video``. Finished segments stay in ``folder``.
    """
    options = options or VideoOptions()
    check = checker(cancelled)
    missing = check_complete(source, options)
    container = choose_container(options, output)
    fingerprint = _fingerprint(source, options, container, upscaler)
    ledger = ledgers.read_valid(folder, fingerprint)
    job = _Job(source, folder, upscaler, options, container, check, segment_seconds, missing)
    job.earlier = 0 if ledger is None else ledger.frames
    if ledger is None or ledger.summary is None:
        job.make_segments(ledger, fingerprint, on_progress)
    return job.join(output)


@dataclass
class _Job:
    source: Path
    folder: Path
    upscaler: FrameUpscaler
    options: VideoOptions
    container: ContainerName
    check: Callable[[], None]
    segment_seconds: float
    missing: int
    earlier: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def make_segments(
        self, ledger: Ledger | None, fingerprint: str, on_progress: OnProgress | None
    ) -> None:
        """Everything after the last finished segment."""
        try:
            decoder = self._open_decoder(ledger)
        except UnusableMedia as error:
            if ledger is None or not ledger.rows or error.code != "empty_range":
                raise
            # It was killed between its last segment and the note that it was the last.
            ledgers.append(self.folder, {"frames": 0})
            return
        with decoder:
            info = decoder.info
            if ledger is None:
                shift = pts_shift(info, self.options)
                ledger = ledgers.start(self.folder, Header(fingerprint, str(info.time_base), shift))
            encode = encode_options(info, self.options, self.container)
            checked_codec(encode)
            flow = FrameFlow(
                decoder,
                self.upscaler,
                self.check,
                reuse_duplicates=self.options.reuse_duplicates,
                shift=ledger.header.shift,
            )
            self._write_segments(flow, ledger, encode, info, on_progress)
            assert decoder.summary is not None
            self.stages = flow.times.summary()
            ledgers.append(self.folder, asdict(decoder.summary))

    def _open_decoder(self, ledger: Ledger | None) -> Decoder:
        after = None
        if ledger is not None and ledger.last_pts is not None:
            after = ledger.last_pts + ledger.header.shift
        return Decoder(self.source, decode_options(self.options, after), self.check)

    def _write_segments(
        self,
        flow: FrameFlow,
        ledger: Ledger,
        encode: EncodeOptions,
        info: VideoInfo,
        on_progress: OnProgress | None,
    ) -> None:
        report = progress_reporter(on_progress, expected_frames(info, self.options), self.earlier)
        longest = round(Fraction(str(self.segment_seconds)) / info.time_base)
        segments = _Segments(self.folder, encode, self.check, len(ledger.rows), longest)
        with closing(segments):
            for upscaled in flow:
                segments.put(upscaled)
                report(self.earlier + len(flow.ledger))
            segments.finish()

    def join(self, output: Path) -> Manifest:
        """One file out of all segments."""
        ledger = ledgers.read(self.folder)
        if ledger is None or ledger.summary is None or not ledger.rows:
            raise EncodeError("The segments of this job are gone; start it anew.")
        info = self._whole_info(ledger)
        encode = encode_options(info, self.options, self.container)
        around = companions(self.source, info, self.options)
        with written_beside(output) as partial:
            joined = join_segments(self.folder, encode, around, partial, self.check)
            manifest = build_manifest(
                Facts(
                    info=info,
                    encode=encode,
                    decoded=_whole_summary(ledger),
                    encoded=joined.summary,
                    backend=self.upscaler.info,
                    ledger=[pts for row in ledger.rows for pts in row.pts],
                    frames_reused=sum(row.reused for row in ledger.rows),
                    frames_promised=0 if self.earlier else info.frames_promised,
                    missing_bytes=self.missing,
                    strict=self.options.strict,
                    copied=joined.copied,
                    dropped=joined.dropped,
                    stages=self.stages,
                    seconds=time.monotonic() - self.started,
                )
            )
        return self._with_history(manifest)

    def _whole_info(self, ledger: Ledger) -> VideoInfo:
        """The video as the first call saw it."""
        info = probe(self.source, self.options.limits)
        if self.options.start_seconds is None:
            return info
        return replace(info, start_pts=ledger.header.shift)

    def _with_history(self, manifest: Manifest) -> Manifest:
        if not self.earlier:
            return manifest
        note = f"resumed after {self.earlier} frames; damage before them was counted then"
        return replace(manifest, warnings=[*manifest.warnings, note])


@dataclass
class _Segments:
    """Writes one segment after the other."""

    folder: Path
    encode: EncodeOptions
    check: Callable[[], None]
    number: int
    longest: int
    """In ticks of the source."""
    _encoder: Encoder | None = None
    _pts: list[int] = field(default_factory=list)
    _durations: list[int] = field(default_factory=list)
    _reused: int = 0

    def put(self, upscaled: Upscaled) -> None:
        """Takes the next frame; ends a segment that is long enough before it."""
        full = bool(self._pts) and upscaled.pts - self._pts[0] >= self.longest
        if full and upscaled.frame is not None:
            self.finish()
        if self._encoder is None:
            self._encoder = Encoder(self._segment_options(), None, self._partial(), self.check)
        place = self._place(len(self._pts))
        length = self._place(len(self._pts) + 1) - place
        if upscaled.frame is None:
            self._encoder.repeat(place, length)
            self._reused += 1
        else:
            self._encoder.put(upscaled.frame, place, length)
        self._pts.append(upscaled.pts)
        self._durations.append(upscaled.duration)

    def finish(self) -> None:
        """Makes the current segment durable and enters it into the ledger."""
        if self._encoder is None:
            return
        summary = self._encoder.finish()
        self.close()
        rank = {place: index for index, place in enumerate(sorted(summary.packet_pts))}
        if len(rank) != len(self._pts):
            raise EncodeError(
                f"Frames were lost ({len(self._pts)} upscaled, {len(rank)} written); "
                "this is a bug, please report it."
            )
        partial, final = self._partial(), self.folder / f"segment-{self.number:05d}.mkv"
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        digest = ledgers.file_sha256(partial)
        partial.replace(final)
        ledgers.sync_folder(self.folder)
        order = [rank[place] for place in summary.packet_pts]
        row = Row(final.name, digest, self._pts, self._durations, order, self._reused)
        ledgers.append(self.folder, row)
        self.number += 1
        self._pts, self._durations, self._reused = [], [], 0

    def close(self) -> None:
        """Ends the encoder of an unfinished segment."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _place(self, index: int) -> int:
        """Milliseconds of frame ``index`` within its segment: even, and never two alike."""
        rate = self.encode.rate or Fraction(25)
        return index if rate > 500 else round(index * 1000 / rate)

    def _partial(self) -> Path:
        return self.folder / f"segment-{self.number:05d}.mkv.part"

    def _segment_options(self) -> EncodeOptions:
        return replace(self.encode, container="mkv", time_base=_SEGMENT_CLOCK, display_matrix=None)


def _whole_summary(ledger: Ledger) -> DecodeSummary:
    """What the last call's decoder counted, with the frames of all calls.

    What it skipped was finished before, or lies before the start that was asked for.
    """
    empty: dict[str, Any] = dict.fromkeys(DecodeSummary.__dataclass_fields__, 0)
    empty |= {"stopped_early": False, "demux_error": ""}
    last = DecodeSummary(**(empty | (ledger.summary or {})))
    return replace(last, frames=ledger.frames, skipped=0)


def _fingerprint(
    source: Path, options: VideoOptions, container: str, upscaler: FrameUpscaler
) -> str:
    """Of everything that makes two jobs different."""
    size = source.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with source.open("rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(size - _SAMPLE_BYTES, 0))
        digest.update(file.read(_SAMPLE_BYTES))
    info = upscaler.info
    facts = [asdict(options), container, info.name, info.model, info.onnx_sha256]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()
