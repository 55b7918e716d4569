"""The live streams that are open: how many, whose, and when all of them have to end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import ApiError
from server.metrics import Metrics
from server.settings import Limits

STOP_SECONDS = 5.0
"""Frames in work get this long when the server stops."""


class LiveStreams:
    """Counts the open streams of one server. Everything here happens on one event loop."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._owners: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self.stopping = asyncio.Event()
        """Set when streams must end."""

    @contextmanager
    def opened(self, owner: str) -> Iterator[None]:
        """Counts one stream of ``owner`` while the body runs.

        Raises:
            ApiError: 503 too many are open, 429 too many of this caller, 503 the server stops.
        """
        limits, own = self._limits, self._owners[owner]
        if self.stopping.is_set():
            raise ApiError("stopping", "the server is stopping; try again in a moment")
        if own >= limits.live_streams_per_key:
            raise ApiError(
                "too_many_streams",
                "you have too many live streams; close one",
                limit=limits.live_streams_per_key,
                actual=own,
            )
        if self._owners.total() >= limits.max_live_streams:
            raise ApiError(
                "queue_full",
                "too many live streams are open; try again soon",
                limit=limits.max_live_streams,
                actual=self._owners.total(),
            )
        self._count(owner, 1)
        try:
            yield
        finally:
            self._count(owner, -1)

    def begin_stop(self) -> None:
        """Tells every stream to end; new ones are refused."""
        self.stopping.set()

    async def ended(self) -> None:
        """Returns when no stream is open, or they have had their time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + STOP_SECONDS + 1
        while self._owners.total() and loop.time() < until:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), until - loop.time())
            except TimeoutError:
                return

    def _count(self, owner: str, change: int) -> None:
        self._owners[owner] += change
        if not self._owners[owner]:
            del self._owners[owner]  # or every owner there ever was would be kept
        self._metrics.live_streams.set(self._owners.total())
        self._changed.set()
