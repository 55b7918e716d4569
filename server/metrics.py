"""What ``/metrics`` shows, in a registry of its own (one per app, nothing global)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

LAG_PERIOD_SECONDS = 0.1
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.033, 0.066, 0.13, 0.26, 0.5, 1, 2, 5)


class Metrics:
    """Counters and gauges of one server."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.registry = registry
        self.requests = Counter(
            "sr_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.errors = Counter("sr_errors", "Errors by code", ["code"], registry=registry)
        self.request_seconds = Histogram(
            "sr_request_seconds",
            "Time to the end of the answer",
            ["route"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.tasks = Counter(
            "sr_tasks", "Tasks ended by a worker", ["kind", "outcome"], registry=registry
        )
        self.frames = Counter("sr_frames", "Frames and pictures made", ["kind"], registry=registry)
        self.fps = Gauge("sr_fps", "Frames a second of the last video", registry=registry)
        self.stage_seconds = Histogram(
            "sr_stage_seconds",
            "Time of each stage of a picture, and the median of each stage of a video",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.queued = Gauge("sr_queued", "Tasks that wait", ["kind"], registry=registry)
        self.workers = Gauge("sr_workers", "Engine workers by state", ["state"], registry=registry)
        self.worker_restarts = Counter(
            "sr_worker_restarts", "Workers that died and were replaced", registry=registry
        )
        self.loop_lag_seconds = Gauge(
            "sr_loop_lag_seconds", "How late the event loop was", ["window"], registry=registry
        )
        self.calibration_fps = Gauge(
            "sr_calibration_fps", "Frames a second measured at start", registry=registry
        )
        self.live_streams = Gauge("sr_live_streams", "Live streams open", registry=registry)
        self.live_frames = Counter(
            "sr_live_frames", "Live frames by what became of them", ["outcome"], registry=registry
        )
        self.live_latency_seconds = Histogram(
            "sr_live_latency_seconds",
            "From a live frame's arrival to its answer",
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        for kind in ("picture", "live", "video", "job"):
            self.queued.labels(kind).set(0)
        self._longest_lag = 0.0

    def observe_stages(self, stages_ms: Mapping[str, float]) -> None:
        """Adds the time of each stage, in milliseconds, to its histogram."""
        for stage, elapsed_ms in stages_ms.items():
            self.stage_seconds.labels(stage).observe(elapsed_ms / 1e3)

    async def watch_loop_lag(self) -> None:
        """Measures for ever how much later than asked the event loop wakes up."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time() + LAG_PERIOD_SECONDS
            await asyncio.sleep(LAG_PERIOD_SECONDS)
            lag = max(0.0, loop.time() - asked)
            self._longest_lag = max(self._longest_lag, lag)
            self.loop_lag_seconds.labels("last").set(lag)
            self.loop_lag_seconds.labels("max").set(self._longest_lag)

    def expose(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
