"""Limits that need a memory: how often a caller asks, who is arriving, how much disk is left."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import ApiError
from server.settings import Limits

_MOST_CALLERS = 10_000


class RateLimiter:
    """A token bucket per caller: ``burst`` at once, then ``per_second``.

    Args:
        per_second: tokens that come back each second.
        burst: tokens of a caller who was quiet.
        clock: seconds, monotonic.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Takes one token. Raises ApiError 429 when there is none."""
        now = self._clock()
        tokens, then = self._buckets.pop(caller, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        self._buckets[caller] = (max(0.0, tokens - 1) if tokens >= 1 else tokens, now)
        if len(self._buckets) > _MOST_CALLERS:  # the one unseen for longest
            self._buckets.popitem(last=False)
        if tokens < 1:
            wait = (1 - tokens) / self._per_second
            raise ApiError(
                "rate_limited",
                "too many requests; wait as long as the header Retry-After says",
                limit=self._burst,
                headers={"Retry-After": str(max(1, round(wait)))},
            )


class Arrivals:
    """Requests that were let in and are not in a queue yet: their bodies are being received.

    Without counting them a burst finds the queue empty, is received as a whole, and most of it is
    refused afterwards. Each counts for a second only, so that slow bodies keep nobody out.
    """

    SECONDS = 1.0

    def __init__(self) -> None:
        self._arriving: set[object] = set()

    @property
    def count(self) -> int:
        """How many are arriving."""
        return len(self._arriving)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts one arrival while the block runs, for a second at most."""
        arrival = object()
        self._arriving.add(arrival)
        timer = asyncio.get_running_loop().call_later(self.SECONDS, self._arriving.discard, arrival)
        try:
            yield
        finally:
            timer.cancel()
            self._arriving.discard(arrival)


def check_disk(folder: Path, needed_bytes: int, limits: Limits) -> None:
    """Raises ApiError 507 unless ``folder``'s disk takes this much and keeps its reserve.

    The reserve is ``disk_keep_bytes``, but never more than 5 % of the disk.
    """
    usage = shutil.disk_usage(folder)
    reserve = min(limits.disk_keep_bytes, usage.total // 20)
    free = max(0, usage.free - reserve)
    if needed_bytes > free:
        raise ApiError(
            "disk_full",
            f"there is no room for {needed_bytes} bytes; try again when jobs have been deleted",
            limit=free,
            actual=needed_bytes,
        )
