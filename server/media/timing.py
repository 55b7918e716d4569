"""How long each stage of a session takes per frame."""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")

Stages = dict[str, dict[str, float]]
"""Stage -> what ``percentiles`` says of it."""

BUCKETS_MS = (1, 2, 4, 8, 16, 33, 66, 130, 260, 500, 1000, 2000, 5000)
"""Upper ends of the histogram that ``percentiles`` counts."""


@dataclass
class StageTimes:
    """Milliseconds per stage and frame."""

    _values: dict[str, list[float]] = field(default_factory=dict)
    _inner_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Times a block as one frame of ``stage``."""
        started = time.perf_counter()
        yield
        self._add(stage, (time.perf_counter() - started) * 1e3)

    def each(self, stage: str, items: Iterator[Item], inside: str | None = None) -> Iterator[Item]:
        """Times how long each of ``items`` is waited for.

        Args:
            stage: what the time is spent on.
            items: passed through.
            inside: the stage that pulls these items; its own time is counted without them.
        """
        while True:
            started = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            spent = (time.perf_counter() - started) * 1e3
            if inside is not None:
                self._inner_ms[inside] = self._inner_ms.get(inside, 0.0) + spent
            self._add(stage, max(spent - self._inner_ms.pop(stage, 0.0), 0.0))
            yield item

    def summary(self) -> dict[str, dict[str, float]]:
        """Stage -> what ``percentiles`` says."""
        return {stage: percentiles(values) for stage, values in self._values.items()}

    def _add(self, stage: str, milliseconds: float) -> None:
        self._values.setdefault(stage, []).append(milliseconds)


def percentiles(values: list[float]) -> dict[str, float]:
    """``p50_ms``, ``p95_ms``, ``p99_ms`` of milliseconds, and what a histogram needs.

    That is ``frames``, ``total_ms`` and, per bucket, ``le_N_ms``: how many took at most N. All are
    zero for an empty list.
    """
    ordered = sorted(values)
    found = {f"p{share}_ms": round(_quantile(ordered, share / 100), 3) for share in (50, 95, 99)}
    found |= {"frames": len(ordered), "total_ms": round(math.fsum(ordered), 3)}
    return found | {bucket_name(most): bisect_right(ordered, most) for most in BUCKETS_MS}


def bucket_name(most_ms: int) -> str:
    """The key under which ``percentiles`` counts what took at most this long."""
    return f"le_{most_ms}_ms"


def _quantile(ordered: list[float], share: float) -> float:
    """Between neighbours linearly."""
    if not ordered:
        return 0.0
    place = (len(ordered) - 1) * share
    below = ordered[int(place)]
    return below + (ordered[min(int(place) + 1, len(ordered) - 1)] - below) * (place % 1)


def merged(stages: Sequence[Stages]) -> Stages:
    """Times per stage over all segments: the median of the medians, the worst of the 95 % and
    99 %, and the sums of what was counted."""
    found = {}
    for stage in sorted({name for each in stages for name in each}):
        times = [each[stage] for each in stages if stage in each]
        names = list(dict.fromkeys(name for each in times for name in each))
        found[stage] = {
            name: round(_MERGE.get(name, sum)([each[name] for each in times if name in each]), 3)
            for name in names
        }
    return found


_MERGE: dict[str, Callable[[list[float]], float]] = {
    "p50_ms": statistics.median,
    "p95_ms": max,
    "p99_ms": max,
}
