"""Who may submit one more job: limits that hold however many bodies arrive at once.

A body may take minutes to arrive, so a place is reserved before it is read, and what was promised
is counted again, with the true size of the body, where the job becomes a row.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from server.errors import ApiError
from server.jobs.model import Job
from server.jobs.store import JobStore
from server.limits import check_disk
from server.settings import Limits


@dataclass(eq=False, slots=True)
class Arrival:
    """The body of one job, while it is received."""

    owner: str
    idempotency_key: str | None
    file: Path
    """Where it is written to."""
    least_bytes: int
    """As far as its size is known before it is there."""
    has_left: bool = False

    def bytes_to_come(self) -> int:
        """What the disk is still to take of it."""
        with suppress(OSError):  # not begun, or given up
            return max(0, self.least_bytes - self.file.stat().st_size)
        return self.least_bytes


class Admission:
    """Counts the jobs that are stored and those that arrive.

    Args:
        store: the rows.
        limits: of jobs.
        take_turn: counts one new job of a caller. Raises ApiError 429 when there were too many.
    """

    def __init__(self, store: JobStore, limits: Limits, take_turn: Callable[[str], None]) -> None:
        self._store = store
        self._limits = limits
        self._take_turn = take_turn
        self._arriving: set[Arrival] = set()
        self._lock = threading.Lock()
        """Held, in a thread, over counting and what follows from it."""

    @asynccontextmanager
    async def reserved(self, arrival: Arrival) -> AsyncIterator[None]:
        """A place for ``arrival`` while the block runs. One that is sent again needs none.

        Raises:
            ApiError: 429 too many jobs of this caller, 503 of everybody, 507 no room on the disk or
                in the caller's share of it.
        """
        try:
            await asyncio.to_thread(self._admit, arrival)
            yield
        finally:  # the thread may still be at it when this is cancelled: it looks at ``has_left``
            arrival.has_left = True
            self._arriving.discard(arrival)

    def keep(self, job: Job, arrival: Arrival) -> Job:
        """Stores ``job``; returns it, or the earlier job of its owner with the same key.

        Blocks: to be called in a thread.

        Raises:
            ApiError: as ``reserved``, if a limit is passed after all.
        """
        with self._lock:
            if not self._is_known(arrival):
                self._refuse_over(job.owner, job.input_bytes, [])
            stored = self._store.insert(job)
            self._arriving.discard(arrival)  # in the same moment: it is counted exactly once
            return stored

    def _admit(self, arrival: Arrival) -> None:
        with self._lock:
            others = list(self._arriving)
            if self._is_known(arrival) or any(_are_one_job(arrival, other) for other in others):
                return
            self._take_turn(arrival.owner)
            self._refuse_over(arrival.owner, arrival.least_bytes, others)
            coming = sum(other.bytes_to_come() for other in [arrival, *others])
            check_disk(arrival.file.parent, coming, self._limits)
            self._arriving.add(arrival)
            if arrival.has_left:
                self._arriving.discard(arrival)

    def _is_known(self, arrival: Arrival) -> bool:
        key = arrival.idempotency_key
        return key is not None and self._store.knows_key(arrival.owner, key)

    def _refuse_over(self, owner: str, new_bytes: int, others: list[Arrival]) -> None:
        limits = self._limits
        everybody = self._store.unfinished() + len(others)
        if everybody >= limits.job_queue:
            raise ApiError(
                "queue_full",
                "too many jobs wait; try again later",
                limit=limits.job_queue,
                actual=everybody,
            )
        own = [other for other in others if other.owner == owner]
        unfinished = self._store.unfinished(owner) + len(own)
        if unfinished >= limits.jobs_per_key:
            raise ApiError(
                "too_many_jobs",
                "you have too many unfinished jobs; wait for one or cancel one",
                limit=limits.jobs_per_key,
                actual=unfinished,
            )
        promised = self._store.stored_bytes(owner) + sum(other.least_bytes for other in own)
        if promised + new_bytes > limits.disk_quota_bytes:
            raise ApiError(
                "disk_full",
                "this does not fit into your share of the disk beside your other jobs; delete some",
                limit=limits.disk_quota_bytes,
                actual=promised + new_bytes,
            )


def _are_one_job(one: Arrival, other: Arrival) -> bool:
    """Whether both are sent for the same job, so that they need one place."""
    same = (one.owner, one.idempotency_key) == (other.owner, other.idempotency_key)
    return same and one.idempotency_key is not None
