"""What ``/metrics`` shows, in a registry of its own (one per app, nothing global)."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

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
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from server.media.timing import BUCKETS_MS, bucket_name

LAG_PERIOD_SECONDS = 0.1
_BUCKET_NAMES = tuple(map(bucket_name, BUCKETS_MS))
_COUNTED = ("frames", "total_ms", *_BUCKET_NAMES)
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.033, 0.066, 0.13, 0.26, 0.5, 1, 2, 5)


class StageHistogram(Collector):
    """``sr_stage_seconds``: how long each stage of each picture and of each frame took.

    Workers time frames and send counts; prometheus_client's own histogram takes only single values.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], dict[str, float]] = {}

    def add_times(self, kind: str, stages: Mapping[str, Mapping[str, float]]) -> None:
        """Adds what ``server.media.timing.percentiles`` counted for each stage."""
        for stage, times in stages.items():
            known = self._sums.setdefault((kind, stage), dict.fromkeys(_COUNTED, 0.0))
            for name in _COUNTED:
                known[name] += times.get(name, 0.0)

    def observe(self, kind: str, stages_ms: Mapping[str, float]) -> None:
        """Adds one time of each stage, in milliseconds."""
        for stage, spent in stages_ms.items():
            known = self._sums.setdefault((kind, stage), dict.fromkeys(_COUNTED, 0.0))
            counted = bisect_left(BUCKETS_MS, spent)  # the first bucket that it fits into
            for name in ("frames", *_BUCKET_NAMES[counted:]):
                known[name] += 1
            known["total_ms"] += spent

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(
            "sr_stage_seconds",
            "Time of each stage of each picture and of each frame of a video",
            labels=["kind", "stage"],
        )
        for labels, known in sorted(self._sums.items()):
            buckets = [(str(most / 1e3), known[bucket_name(most)]) for most in BUCKETS_MS]
            family.add_metric(
                list(labels), [*buckets, ("+Inf", known["frames"])], known["total_ms"] / 1e3
            )
        yield family


class FramesMade:
    """Counts the frames of one video while it is made.

    What is made again because a worker died is not counted again.

    Args:
        counter: where they are added.
        resumed: whether an earlier process has made some of them, nobody here knows how many: the
            first number that is seen is taken for theirs.
    """

    def __init__(self, counter: Counter, *, resumed: bool = False) -> None:
        self._counter = counter
        self._most: int | None = None if resumed else 0

    def see(self, frames: int | None) -> None:
        """So many are made by now, those of earlier processes included; None says nothing."""
        if frames is None:
            return
        if self._most is not None:
            self._counter.inc(max(0, frames - self._most))
        self._most = max(frames, self._most or 0)


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
        self.stages = StageHistogram()
        registry.register(self.stages)
        self.queued = Gauge("sr_queued", "Tasks that wait", ["kind"], registry=registry)
        self.workers = Gauge("sr_workers", "Engine workers by state", ["state"], registry=registry)
        self.gpu_memory_bytes = Gauge(
            "sr_gpu_memory_bytes",
            "Memory of each GPU as its workers last saw it: used, by all processes, and total",
            ["device", "kind"],
            registry=registry,
        )
        self.worker_restarts = Counter(
            "sr_worker_restarts", "Workers that died and were replaced", registry=registry
        )
        self.loop_lag_seconds = Gauge(
            "sr_loop_lag_seconds", "How late the event loop was", ["window"], registry=registry
        )
        self.calibration_fps = Gauge(
            "sr_calibration_fps", "Frames a second measured at start", registry=registry
        )
        self.calibration_real_time = Gauge(
            "sr_calibration_real_time",
            "1 when the calibration held 60 frames a second, 0 when not, NaN before it is done",
            registry=registry,
        )
        self.calibration_real_time.set(math.nan)
        self.calibration_stage_seconds = Gauge(
            "sr_calibration_stage_seconds",
            "Time of each stage of a frame in the calibration; frame is from one to the next",
            ["stage", "quantile"],
            registry=registry,
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

    def set_calibration(self, result: Mapping[str, Any], *, is_real_time: bool) -> None:
        """Shows what ``server.workers.calibration`` measured."""
        self.calibration_fps.set(result["fps"])
        self.calibration_real_time.set(is_real_time)
        stages = {"frame": result["frame_ms"], **result["stages_ms"]}
        for stage, times in stages.items():
            for name, milliseconds in times.items():
                quantile = f"0.{name.removeprefix('p')}"
                self.calibration_stage_seconds.labels(stage, quantile).set(milliseconds / 1e3)

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
