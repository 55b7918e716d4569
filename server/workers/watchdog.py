"""Ends work that is too slow, stands still, or does not stop when it is told to."""

from __future__ import annotations

import asyncio

from server.errors import ApiError
from server.workers.process import CANCEL_SECONDS, WorkerProcess
from server.workers.ticket import Ticket


async def watch(worker: WorkerProcess, ticket: Ticket) -> ApiError | None:
    """Kills the worker when its ticket is too slow, stalls, or ignores being cancelled.

    Returns why, or None when the ticket was cancelled.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
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
    await worker.cancel()
    await asyncio.sleep(CANCEL_SECONDS)
    worker.kill()
    return None
