"""How long each stage of a session takes per frame."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")


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
        """Stage -> ``p50_ms`` and ``p95_ms``."""
        return {stage: percentiles(values) for stage, values in self._values.items()}

    def _add(self, stage: str, milliseconds: float) -> None:
        self._values.setdefault(stage, []).append(milliseconds)


def percentiles(values: list[float]) -> dict[str, float]:
    """``p50_ms`` and ``p95_ms`` of a list of milliseconds; zeros for an empty one."""
    if len(values) < 2:
        only = round(values[0], 3) if values else 0.0
        return {"p50_ms": only, "p95_ms": only}
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50_ms": round(cuts[9], 3), "p95_ms": round(cuts[18], 3)}
