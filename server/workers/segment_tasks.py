"""A job in parts, for a server with several workers: plan it, make one segment, join them.

The three tasks of one job may run on three workers; the ledger beside the segments is written by
the plan and then by HTTP alone (``server.jobs.splitting``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from engine.backends.base import BackendInfo
from server.flow import FrameUpscaler
from server.manifest import Manifest
from server.media import ledger as ledgers
from server.media.errors import EncodeError
from server.media.ledger import Row
from server.media.probe import info_from_message
from server.segment_plan import Work, fingerprint, prepare
from server.segments import join, make_segments
from server.session import check_complete
from server.video_options import expected_frames
from server.workers.channel import Message
from server.workers.child import TaskContext

REPORT_SECONDS = 0.2


def plan(work: Work, backend: BackendInfo, context: TaskContext) -> Message:
    """Reads the source once.

    Returns:
        ``missing``: numbers of the segments that are to be made, or None for a video that has to
        stay whole; ``frames``: how many are finished already; ``frames_total``.
    """
    check_complete(work.source, work.options)
    ledger = prepare(work, backend, _alive(context))
    header = ledger.header
    if header.cuts is None or header.video is None:
        return {"missing": None, "frames": ledger.frames, "frames_total": None}
    total = expected_frames(info_from_message(header.video), work.options)
    return {"missing": ledger.missing, "frames": ledger.frames, "frames_total": total}


def segment(work: Work, number: int, upscaler: FrameUpscaler, context: TaskContext) -> Message:
    """Makes one segment.

    Returns:
        ``row`` for the ledger and ``stages``.

    Raises:
        EncodeError: the plan is gone, or was made for another network than this worker's.
    """
    ledger = ledgers.read(work.folder)
    if ledger is None or ledger.header.fingerprint != fingerprint(work, upscaler.info):
        raise EncodeError("The plan of this job was made for another engine; start it anew.")
    rows: list[Row] = []
    count = _FrameCount(context)
    stages = make_segments(
        work,
        ledger.header,
        range(number, number + 1),
        upscaler,
        rows.append,
        check=context.raise_if_cancelled,
        on_frame=count.add,
    )
    return {"row": asdict(rows[0]), "stages": stages}


def joined(
    work: Work, backend: BackendInfo, output: Path, task: Message, context: TaskContext
) -> Manifest:
    """All segments as one file; ``task`` says what the frames took (seconds, earlier, stages)."""
    return join(
        work,
        backend,
        output,
        check=_alive(context),
        seconds=task["seconds"],
        earlier=task["earlier"],
        stages=task["stages"],
    )


class _FrameCount:
    """Tells HTTP how many frames of a segment are done, a few times a second."""

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._frames = 0
        self._told_at = 0.0

    def add(self) -> None:
        self._frames += 1
        now = time.monotonic()
        if now - self._told_at >= REPORT_SECONDS:
            self._told_at = now
            self._context.report({"segment_frames": self._frames})


def _alive(context: TaskContext) -> Callable[[], None]:
    """A check that also tells the watchdog that something happens: reading has no frames."""

    def check() -> None:
        context.raise_if_cancelled()
        context.report({})

    return check
