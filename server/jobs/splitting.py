"""One job on several workers: planned by one, its segments made by all, joined by one.

Knows the pool and the ledger; neither rows of the store nor HTTP. A worker that dies costs the
segment it was at, and that is made again by the next one that is free.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from server.media import ledger as ledgers
from server.media.ledger import Row
from server.media.timing import merged
from server.workers.channel import Message
from server.workers.pool import WorkerPool
from server.workers.ticket import Ticket, TicketCancelled, ignore

_WINDOW = 20
"""Reports of frames that the shown speed is taken over."""


class SplitJob:
    """Runs the task of ``parent``, which itself is never queued, in parts.

    Args:
        pool: with at least two workers for long tasks.
        parent: its ``task`` is a job's; cancelling it cancels every part; its limits hold for each.
        segments: folder of the job's segments.
    """

    def __init__(self, pool: WorkerPool, parent: Ticket, segments: Path) -> None:
        self._pool = pool
        self._parent = parent
        self._folder = segments
        self._ledger = asyncio.Lock()
        self._started = time.monotonic()
        self._finished = 0
        self._current: dict[int, int] = {}
        self._total: int | None = None
        self._reports: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._stages: list[dict[str, dict[str, float]]] = []

    async def run(self) -> Message:
        """The result of the job.

        Raises:
            ApiError: a part failed, more often than it may be tried again.
            TicketCancelled: ``parent`` was cancelled.
        """
        work = asyncio.create_task(self._run())
        asked = asyncio.create_task(self._parent.cancel_requested.wait())
        try:
            await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        try:
            return work.result()
        except asyncio.CancelledError:
            raise TicketCancelled from None

    async def _run(self) -> Message:
        plan = await self._part("plan")
        missing = plan["missing"]
        if missing is None:
            return await self._part("job", on_event=self._parent.on_event)
        earlier = self._finished = plan["frames"]
        self._total = plan["frames_total"]
        await self._make(missing)
        return await self._part(
            "join",
            seconds=time.monotonic() - self._started,
            earlier=earlier,
            stages=merged(self._stages),
        )

    async def _make(self, missing: Sequence[int]) -> None:
        queue = deque(missing)

        async def lane() -> None:
            while queue:
                await self._segment(queue.popleft())

        count = min(self._pool.long_capacity, len(missing))
        lanes = [asyncio.create_task(lane()) for _ in range(count)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for each in lanes:
                each.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _segment(self, number: int) -> None:
        def on_event(message: Message) -> None:
            self._current[number] = message.get("segment_frames", self._current.get(number, 0))
            self._report(message)

        made = await self._part("segment", on_event=on_event, number=number)
        row = Row(**made["row"])
        async with self._ledger:  # line by line: a torn one would hide all that follow
            await asyncio.to_thread(ledgers.append, self._folder, row)
        self._current.pop(number, None)
        self._finished += len(row.pts)
        self._stages.append(made["stages"])
        self._report({})

    async def _part(
        self, kind: str, on_event: Callable[[Message], None] = ignore, **fields: object
    ) -> Message:
        """One ticket through the pool; cancelled, and waited for, when this is."""
        parent = self._parent
        ticket = Ticket(
            "job",
            {**parent.task, "kind": kind, **fields},
            on_event=on_event,
            stall_seconds=parent.stall_seconds,
            retries=parent.retries,
            started=parent.started,
        )
        self._pool.submit(ticket)
        try:
            return await asyncio.shield(ticket.outcome)
        except asyncio.CancelledError:
            self._pool.cancel(ticket)
            await asyncio.wait({ticket.outcome})
            raise

    def _report(self, message: Message) -> None:
        now, frames = time.monotonic(), self._finished + sum(self._current.values())
        self._reports.append((now, frames))
        (began, first), (ended, last) = self._reports[0], self._reports[-1]
        fps = (last - first) / (ended - began) if ended > began else 0.0
        left = None if self._total is None or fps <= 0 else (self._total - frames) / fps
        shown = {"has_preview": True} if message.get("has_preview") else {}
        self._parent.on_event(
            {
                **shown,
                "frames": frames,
                "frames_total": self._total,
                "fps": round(max(fps, 0.0), 2),
                "eta_seconds": None if left is None else round(max(left, 0.0), 1),
            }
        )
