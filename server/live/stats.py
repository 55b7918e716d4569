"""What a live stream tells of itself: counts, frames a second, latency."""

from __future__ import annotations

from collections import deque
from typing import Any

from server.live.window import FrameWindow

_RECENT = 256
_FPS_SECONDS = 5.0


class LiveStats:
    """Latencies and pace of the newest answers."""

    def __init__(self) -> None:
        self._latencies_ms: deque[float] = deque(maxlen=_RECENT)
        self._moments: deque[float] = deque(maxlen=_RECENT)

    def add(self, latency_ms: float, now: float) -> None:
        """One answer is on its way."""
        self._latencies_ms.append(latency_ms)
        self._moments.append(now)

    def message(self, kind: str, window: FrameWindow, now: float) -> dict[str, Any]:
        """The text message of type ``kind`` (``stats`` or ``end``)."""
        return {
            "type": kind,
            "received": window.received,
            "answered": window.answered,
            "dropped": window.dropped,
            "in_work": window.in_work,
            "fps": self._fps(now),
            "latency_ms": {"p50": self._percentile(0.5), "p95": self._percentile(0.95)},
        }

    def _fps(self, now: float) -> float:
        recent = [moment for moment in self._moments if now - moment <= _FPS_SECONDS]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return round((len(recent) - 1) / (recent[-1] - recent[0]), 2)

    def _percentile(self, share: float) -> float | None:
        """The nearest rank; None before the first answer."""
        ranked = sorted(self._latencies_ms)
        return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 2) if ranked else None
