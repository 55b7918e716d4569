"""Ends work that is too slow, stands still, or does not stop when it is told to."""

from __future__ import annotations

import asyncio

from server.errors import ApiError
from server.workers.process import CANCEL_SECONDS, WorkerProcess
from server.workers.ticket import Ticket

HEAD_START_SECONDS = 0.2
"""Most pictures are done by then, and need no task that watches them."""


class Watchdog:
    """Watches a ticket from now on until ``stop``."""

    def __init__(self, worker: WorkerProcess, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        self._worker, self._ticket, self._began = worker, ticket, loop.time()
        self._task: asyncio.Task[ApiError | None] | None = None
        limits = (HEAD_START_SECONDS, ticket.total_seconds, ticket.stall_seconds)
        wait = min(limit for limit in limits if limit is not None)
        self._timer = loop.call_later(wait, self.look)
        if ticket.cancel_requested.is_set():
            self.look()

    def look(self) -> None:
        """Looks at once: call it when the ticket has been cancelled."""
        if self._task is None:
            watching = watch(self._worker, self._ticket, self._began)
            self._task = asyncio.create_task(watching)

    def stop(self) -> None:
        """The work has ended."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    @property
    def reason(self) -> ApiError | None:
        """Why it killed the worker, when it did."""
        task = self._task
        return task.result() if task is not None and task.done() and not task.cancelled() else None


async def watch(worker: WorkerProcess, ticket: Ticket, began: float) -> ApiError | None:
    """Kills the worker when its ticket is too slow, stalls, or ignores being cancelled.

    Returns why, or None when the ticket was cancelled. ``began`` is in loop time.
    """
    loop = asyncio.get_running_loop()
    while not ticket.cancel_requested.is_set():
        ends = [
            (began, ticket.total_seconds, "this took too long"),
            (ticket.heard_at, ticket.stall_seconds, "the work stood still"),
        ]
        due = [(since + limit, limit, why) for since, limit, why in ends if limit is not None]
        for when, limit, why in due:
            if loop.time() >= when:
                worker.kill()
                return ApiError("timed_out", f"{why} and was stopped", limit=limit)
        wait = min((when for when, _, _ in due), default=None)
        timeout = None if wait is None else max(0.01, wait - loop.time())
        # Not wait_for: on 3.11 it swallows its own cancellation when the event is set just then,
        # and this would kill the worker ten seconds later, in the middle of another ticket.
        asked = asyncio.ensure_future(ticket.cancel_requested.wait())
        try:
            await asyncio.wait({asked}, timeout=timeout)
        finally:
            asked.cancel()
    worker.cancel()
    await asyncio.sleep(CANCEL_SECONDS)
    worker.kill()
    return None
