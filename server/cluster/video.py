"""One video on many machines: planned here, made by the cluster, joined here.

Segments arrive as bytes, are written beside, flushed, renamed and entered into the same ledger that
a single machine keeps; the result is the same file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from server.cluster.connection import ClusterError, connected
from server.cluster.farm import Farm
from server.cluster.maker import EngineChoice, Made
from server.manifest import Manifest
from server.media import ledger as ledgers
from server.media.ledger import Header, Ledger
from server.media.probe import info_from_message
from server.media.timing import Stages, merged
from server.segment_plan import SEGMENT_SECONDS, Work, prepare
from server.segments import join
from server.session import check_complete, checker, progress_reporter
from server.video_options import OnProgress, VideoOptions, choose_container, expected_frames


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where the work goes."""

    address: str = "auto"
    """``auto``, ``HOST:PORT`` of the head node, or ``local``."""
    engine: EngineChoice = field(default_factory=EngineChoice)
    segment_seconds: float = SEGMENT_SECONDS
    folder: Path | None = None
    """Keeps finished segments, so that the same call goes on after it was killed; None keeps
    nothing."""


def upscale_on_cluster(
    source: Path,
    output: Path,
    cluster: ClusterOptions,
    options: VideoOptions | None = None,
    on_progress: OnProgress | None = None,
    *,
    cancelled: Callable[[], bool] = bool,
) -> Manifest:
    """As ``server.session.upscale_video``, with the frames run by a Ray cluster.

    The result is that of ``server.segments.upscale_in_segments`` on one machine like the nodes. A
    video without key frames to cut at is made by one node. ``on_progress`` hears of segments.

    Raises:
        ClusterError: no cluster, no room, or nodes that do not fit together.
        As ``upscale_video`` otherwise.
    """
    options = options or VideoOptions()
    check = checker(cancelled)
    check_complete(source, options)
    container = choose_container(options, output)
    if cluster.folder is not None:
        work = Work(source, cluster.folder, options, container, cluster.segment_seconds)
        return _Run(work, cluster, on_progress, check).to(output)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name[:100]}.", dir=output.parent))
    try:
        work = Work(source, folder, options, container, cluster.segment_seconds)
        return _Run(work, cluster, on_progress, check).to(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Run:
    work: Work
    cluster: ClusterOptions
    on_progress: OnProgress | None
    check: Callable[[], None]
    stages: list[Stages] = field(default_factory=list)
    frames: int = 0
    started: float = field(default_factory=time.monotonic)

    def to(self, output: Path) -> Manifest:
        with connected(self.cluster.address) as ray:
            farm = Farm(ray, self.cluster.engine, self.work.source, self.check)
            try:
                backend = farm.wait_backend()
                ledger = self._ledger(prepare(self.work, backend, self.check))
                header, self.frames = ledger.header, ledger.frames
                earlier = ledger.frames
                report = progress_reporter(self.on_progress, self._total(header), earlier)

                def on_made(made: Made) -> None:
                    self._keep(made)
                    report(self.frames)

                farm.make(self.work, header, ledger.missing, on_made)
            finally:
                farm.close()
        manifest = join(
            self.work,
            backend,
            output,
            check=self.check,
            seconds=time.monotonic() - self.started,
            earlier=earlier,
            stages=merged(self.stages),
        )
        if not farm.lost:
            return manifest
        note = f"{farm.lost} workers of the cluster were lost; their segments were made again"
        return replace(manifest, warnings=[*manifest.warnings, note])

    def _ledger(self, ledger: Ledger) -> Ledger:
        """With a plan in any case: a video that cannot be cut is one segment."""
        if ledger.header.cuts is None:
            return ledgers.start(self.work.folder, replace(ledger.header, cuts=[]))
        return ledger

    def _total(self, header: Header) -> int | None:
        assert header.video is not None
        return expected_frames(info_from_message(header.video), self.work.options)

    def _keep(self, made: Made) -> None:
        """Makes a segment that arrived durable."""
        row, folder = made.row, self.work.folder
        if row.pts:
            if hashlib.sha256(made.content).hexdigest() != row.sha256:
                raise ClusterError(f"{row.file} was damaged on its way; this should never happen.")
            partial = folder / f"{row.file}.part"
            with partial.open("wb") as file:
                file.write(made.content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(folder / row.file)
            ledgers.sync_folder(folder)
        ledgers.append(folder, row)
        self.frames += len(row.pts)
        self.stages.append(made.stages)
