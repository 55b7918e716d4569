"""What ``bench/soak.py`` reads of a server between requests, and whether it grows."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

MOST_MIB_PER_1000 = 0.5
"""Growth of resident memory that is allowed, in MiB per 1,000 requests."""
SURE_AFTER = 1000
"""Requests below which memory is not judged to be level: caches are still filling."""
MOST_FILLING_MIB = 8.0
"""More than what caches take: a growth above this is red after any number of requests."""
WARM_UP_SHARE = 0.4
FEWEST_SAMPLES = 4
"""After the warm-up; with fewer there is nothing to compare."""
PATIENCE_SECONDS = 0.5
"""For what a server has still to notice, such as that a client has hung up."""


@dataclass(frozen=True)
class Sample:
    """The server at one moment."""

    requests: int
    descriptors: int
    """Of the HTTP process and its workers."""
    threads: int
    rss_mib: float
    """Of the HTTP process, which is never replaced."""
    workers_rss_mib: float = 0.0


@dataclass(frozen=True)
class Growth:
    """What the samples after the warm-up say."""

    descriptors: int
    threads: int
    rss_mib_per_1000: float
    requests: int
    """That memory was watched over."""
    is_memory_judged: bool
    samples: int

    @property
    def problems(self) -> list[str]:
        """What grows."""
        names = [name for name in ("descriptors", "threads") if getattr(self, name) > 0]
        names += ["too few samples"] * (self.samples < FEWEST_SAMPLES)
        is_growing = self.is_memory_judged and self.rss_mib_per_1000 > MOST_MIB_PER_1000
        return [*names, "memory"] if is_growing else names


def take_sample(server: psutil.Process, requests: int, before: Sample | None) -> Sample:
    """The server now, or as soon as it has let go of what it had not yet at ``before``."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        is_late = time.monotonic() >= until
        try:
            sample = _read(server, requests)
        except psutil.NoSuchProcess:  # a worker that was killed a moment ago
            if is_late:
                raise
        else:
            if before is None or is_late or not _is_above(sample, before):
                return sample
        time.sleep(0.02)


def _is_above(sample: Sample, before: Sample) -> bool:
    return sample.descriptors > before.descriptors or sample.threads > before.threads


def _read(server: psutil.Process, requests: int) -> Sample:
    workers = [child for child in server.children() if "server.workers" in child.cmdline()]
    return Sample(
        requests,
        sum(each.num_fds() for each in [server, *workers]),
        sum(each.num_threads() for each in [server, *workers]),
        round(server.memory_info().rss / 2**20, 2),
        round(sum(each.memory_info().rss for each in workers) / 2**20, 2),
    )


def judge(samples: list[Sample]) -> Growth:
    """What grew after the warm-up."""
    steady = samples[int(len(samples) * WARM_UP_SHARE) :]
    requests = steady[-1].requests - steady[0].requests
    slope = slope_per_1000([(each.requests, each.rss_mib) for each in steady])
    return Growth(
        growth([sample.descriptors for sample in steady]),
        growth([sample.threads for sample in steady]),
        round(slope, 2),
        requests,
        requests >= SURE_AFTER or slope * requests / 1000 > MOST_FILLING_MIB,
        len(steady),
    )


def growth(counts: list[int]) -> int:
    """From the first third of the samples to the last, by their least or their median.

    The smaller of the two: counts that go up and down between samples have the same least ones,
    and a rare low one, as after a worker was replaced, leaves the median where it is.
    """
    third = max(1, len(counts) // 3)
    first, last = counts[:third], counts[-third:]
    of_middle = statistics.median_low(last) - statistics.median_low(first)
    return max(0, min(of_middle, min(last) - min(first)))


def slope_per_1000(points: list[tuple[int, float]]) -> float:
    """Least squares over (requests, value), for each 1,000 requests."""
    requests, values = np.array(points, float).T
    if len(set(requests)) < 2:
        return 0.0
    return float(np.polyfit(requests / 1000, values, 1)[0])


def columns(samples: list[Sample]) -> dict[str, list[Any]]:
    """All samples, one list for each figure."""
    rows = [asdict(sample) for sample in samples]
    return {name: [row[name] for row in rows] for name in rows[0]}
