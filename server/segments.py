"""A long video in segments, so that nothing finished is ever made twice.

Each segment is encoded on its own (closed, at most some seconds long), written beside, flushed to
the disk, renamed, and entered into a ledger with the times of its frames. A job that was killed
goes on after what is finished. At the end the segments are joined without encoding anything again.
With a plan (``server.segment_plan``) any worker can make any segment: ``make_segments``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.backends.base import BackendInfo
from server.beside import written_beside
from server.flow import FrameFlow, FrameUpscaler
from server.manifest import Manifest
from server.media import ledger as ledgers
from server.media.decode import Decoder, DecodeSummary, probe
from server.media.encode import join_segments
from server.media.errors import EncodeError, UnusableMedia
from server.media.ledger import Header, Ledger, Row
from server.media.probe import VideoInfo, info_from_message
from server.media.timing import Stages, merged
from server.report import Facts, build_manifest
from server.segment_plan import SEGMENT_SECONDS, Work, prepare, segment_ticks, span_options
from server.segment_writer import SegmentWriter
from server.session import (
    check_complete,
    checker,
    companions,
    decode_options,
    encode_options,
    progress_reporter,
)
from server.video_options import OnProgress, VideoOptions, choose_container, expected_frames


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
        segment_seconds: a segment ends at the first key frame of the source after this long; at
            the first new frame where that is not possible. The first segments are shorter.

    Raises:
        As ``server.session.upscale_video``. Finished segments stay in ``folder``.
    """
    options = options or VideoOptions()
    container = choose_container(options, output)
    work = Work(source, folder, options, container, segment_seconds)
    job = _Job(work, upscaler, checker(cancelled), on_progress)
    return job.run(output)


def make_segments(
    work: Work,
    header: Header,
    numbers: range,
    upscaler: FrameUpscaler,
    on_row: Callable[[Row], None],
    *,
    check: Callable[[], None],
    on_frame: Callable[[], None] = lambda: None,
) -> Stages:
    """Makes consecutive segments of a plan.

    Args:
        work: what it is.
        header: of the ledger, with the plan; nothing else of the ledger is read or written.
        numbers: which segments, without a gap.
        upscaler: runs the frames.
        on_row: told of each segment as soon as it is durable; the caller enters it.
        check: called for every frame and while waiting; raises to give up.
        on_frame: called after every frame.

    Returns:
        How long each stage of a frame took.
    """
    cuts = header.cuts or []
    encode = encode_options(_planned_info(header), work.options, work.container)
    try:
        decoder = Decoder(work.source, span_options(work, header, numbers), check)
    except UnusableMedia as error:
        if work.options.strict or error.code not in ("corrupt", "empty_range"):
            raise
        for number in numbers:  # so damaged that there is no frame; the rest may be well
            on_row(Row(ledgers.segment_name(number), "", [], [], [], counted={"decode_errors": 1}))
        return {}
    with decoder:
        flow = FrameFlow(
            decoder,
            upscaler,
            check,
            reuse_duplicates=work.options.reuse_duplicates,
            shift=header.shift,
            fresh_at=cuts,
        )
        number, last = numbers[0], numbers[-1]
        with closing(SegmentWriter(work.folder, encode, check)) as writer:
            for upscaled in flow:
                while number < last and upscaled.pts >= cuts[number] - header.shift:
                    on_row(writer.finish(number))
                    number += 1
                writer.put(upscaled)
                on_frame()
            while number < last:
                on_row(writer.finish(number))
                number += 1
            assert decoder.summary is not None
            on_row(replace(writer.finish(last), counted=asdict(decoder.summary)))
        return merged([flow.times.summary(), *writer.stages])


def join(
    work: Work,
    backend: BackendInfo,
    output: Path,
    *,
    check: Callable[[], None],
    seconds: float,
    earlier: int = 0,
    stages: Stages | None = None,
) -> Manifest:
    """One file out of all segments in the folder of ``work``.

    Args:
        work: what it is; every segment is finished.
        backend: who ran the frames.
        output: written beside and renamed.
        check: called while waiting; raises to give up.
        seconds: what the frames took so far.
        earlier: how many of them had been finished before that.
        stages: of a frame.

    Raises:
        EncodeError, DiskFull: a segment is missing, or the result cannot be written.
        UnusableMedia: no frame could be decoded.
    """
    started = time.monotonic()
    ledger = ledgers.read(work.folder)
    if ledger is None or (ledger.missing if _is_planned(ledger) else ledger.summary is None):
        raise EncodeError("The segments of this job are gone; start it anew.")
    if not ledger.frames:
        raise UnusableMedia("No frame of the video can be decoded; it is damaged.", code="corrupt")
    info = _whole_info(work, ledger)
    encode = encode_options(info, work.options, work.container)
    around = companions(work.source, info, work.options)
    with written_beside(output) as partial:
        joined = join_segments(work.folder, encode, around, partial, check)
        manifest = build_manifest(
            Facts(
                info=info,
                encode=encode,
                decoded=_whole_summary(ledger),
                encoded=joined.summary,
                backend=backend,
                ledger=[pts for row in ledger.rows for pts in row.pts],
                frames_reused=sum(row.reused for row in ledger.rows),
                frames_promised=0 if earlier else info.frames_promised,
                missing_bytes=check_complete(work.source, work.options),
                strict=work.options.strict,
                copied=joined.copied,
                dropped=joined.dropped,
                stages=stages or {},
                seconds=seconds + time.monotonic() - started,
                earlier=earlier,
            )
        )
    if not earlier:
        return manifest
    note = f"resumed after {earlier} frames; damage before them was counted then"
    return replace(manifest, warnings=[*manifest.warnings, note])


@dataclass
class _Job:
    """All segments by one upscaler, one after the other."""

    work: Work
    upscaler: FrameUpscaler
    check: Callable[[], None]
    on_progress: OnProgress | None
    stages: Stages = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def run(self, output: Path) -> Manifest:
        """What is missing, then the whole."""
        check_complete(self.work.source, self.work.options)
        ledger = prepare(self.work, self.upscaler.info, self.check)
        earlier = ledger.frames
        if _is_planned(ledger):
            self._make_planned(ledger)
        elif ledger.summary is None:
            self._make_unplanned(ledger)
        return join(
            self.work,
            self.upscaler.info,
            output,
            check=self.check,
            seconds=time.monotonic() - self.started,
            earlier=earlier,
            stages=self.stages,
        )

    def _make_planned(self, ledger: Ledger) -> None:
        total = expected_frames(_planned_info(ledger.header), self.work.options)
        report = progress_reporter(self.on_progress, total, ledger.frames)
        done = ledger.frames

        def on_frame() -> None:
            nonlocal done
            done += 1
            report(done)

        made: list[Stages] = []
        for numbers in runs(ledger.missing):
            stages = make_segments(
                self.work,
                ledger.header,
                numbers,
                self.upscaler,
                lambda row: ledgers.append(self.work.folder, row),
                check=self.check,
                on_frame=on_frame,
            )
            made.append(stages)
        self.stages = merged(made)

    def _make_unplanned(self, ledger: Ledger) -> None:
        """Everything after the last finished segment."""
        work = self.work
        try:
            decoder = self._open_decoder(ledger)
        except UnusableMedia as error:
            if not ledger.rows or error.code != "empty_range":
                raise
            # It was killed between its last segment and the note that it was the last.
            ledgers.append(work.folder, {"frames": 0})
            return
        with decoder:
            flow = FrameFlow(
                decoder,
                self.upscaler,
                self.check,
                reuse_duplicates=work.options.reuse_duplicates,
                shift=ledger.header.shift,
            )
            encoded = self._write_segments(flow, ledger, decoder.info)
            assert decoder.summary is not None
            self.stages = merged([flow.times.summary(), *encoded])
            ledgers.append(work.folder, asdict(decoder.summary))

    def _open_decoder(self, ledger: Ledger) -> Decoder:
        after = None
        if ledger.last_pts is not None:
            after = ledger.last_pts + ledger.header.shift
        return Decoder(self.work.source, decode_options(self.work.options, after), self.check)

    def _write_segments(self, flow: FrameFlow, ledger: Ledger, info: VideoInfo) -> list[Stages]:
        work, number = self.work, len(ledger.rows)
        total = expected_frames(info, work.options)
        report = progress_reporter(self.on_progress, total, ledger.frames)
        encode = encode_options(info, work.options, work.container)
        with closing(SegmentWriter(work.folder, encode, self.check)) as writer:
            for upscaled in flow:
                first = writer.first_pts
                wanted = segment_ticks(work, info.time_base, number)
                full = first is not None and upscaled.pts - first >= wanted
                if full and upscaled.frame is not None:
                    ledgers.append(work.folder, writer.finish(number))
                    number += 1
                writer.put(upscaled)
                report(ledger.frames + len(flow.ledger))
            if writer.first_pts is not None:
                ledgers.append(work.folder, writer.finish(number))
            return writer.stages


def runs(numbers: Sequence[int]) -> list[range]:
    """Ascending numbers as consecutive stretches."""
    found: list[range] = []
    for number in numbers:
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


def _is_planned(ledger: Ledger) -> bool:
    return ledger.header.cuts is not None


def _planned_info(header: Header) -> VideoInfo:
    if header.video is None:
        raise EncodeError("This job has no plan; start it anew.")
    return info_from_message(header.video)


def _whole_info(work: Work, ledger: Ledger) -> VideoInfo:
    """The video as the first call saw it."""
    if _is_planned(ledger):
        return _planned_info(ledger.header)
    info = probe(work.source, work.options.limits)
    if work.options.start_seconds is None:
        return info
    return replace(info, start_pts=ledger.header.shift)


def _whole_summary(ledger: Ledger) -> DecodeSummary:
    """What the decoders counted, with the frames of all calls.

    What they skipped was finished before, or lies before the start that was asked for.
    """
    zero: dict[str, Any] = dict.fromkeys(DecodeSummary.__dataclass_fields__, 0)
    zero |= {"stopped_early": False, "demux_error": ""}
    if not _is_planned(ledger):
        last = DecodeSummary(**(zero | (ledger.summary or {})))
        return replace(last, frames=ledger.frames, skipped=0)
    total = dict(zero)
    for row in ledger.rows:
        for name, value in row.counted.items():
            total[name] = total[name] or value if name == "demux_error" else total[name] + value
    # Decoders of parts read more packets than their own, and stop early unless theirs is the last.
    last_stopped = bool(ledger.rows[-1].counted.get("stopped_early"))
    packets = ledger.header.packets or total["packets"]
    total |= {"packets": packets, "stopped_early": last_stopped, "skipped": 0}
    return DecodeSummary(**(total | {"frames": ledger.frames}))
