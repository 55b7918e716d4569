"""Progress of a video on its way from the session to HTTP: often enough to watch, not more."""

from __future__ import annotations

import time
from collections import deque

from server.video_options import Progress
from server.workers.child import TaskContext

REPORT_SECONDS = 0.2
_WINDOW_SECONDS = 5.0


class ProgressReporter:
    """Called after every frame; reports at most five times a second, with the recent fps."""

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._reported_at = 0.0
        self._recent: deque[tuple[float, int]] = deque()

    def __call__(self, progress: Progress) -> None:
        """Takes note of one frame."""
        now = time.monotonic()
        if now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        self._recent.append((now, progress.frames))
        while now - self._recent[0][0] > _WINDOW_SECONDS:
            self._recent.popleft()
        fps = self._fps() or progress.fps
        total = progress.frames_total
        eta = (total - progress.frames) / fps if total is not None and fps else None
        self._context.report(
            {
                "frames": progress.frames,
                "frames_total": total,
                "fps": round(fps, 2),
                "eta_seconds": None if eta is None else round(max(0.0, eta), 1),
            }
        )

    def _fps(self) -> float:
        (began, first), (ended, last) = self._recent[0], self._recent[-1]
        return (last - first) / (ended - began) if ended > began else 0.0
