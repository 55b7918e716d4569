"""Feeds queued jobs to the pool, keeps their rows true, and tells those who watch.

Knows the store, the pool and folders; not HTTP. A worker that dies takes no finished segment with
it: the job is tried again and goes on after the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from server.errors import ApiError, stopping
from server.jobs.estimate import Throughput
from server.jobs.model import Job, JobFolder, Progress
from server.jobs.splitting import SplitJob
from server.jobs.store import JobStore
from server.logs import log_bug, log_event
from server.metrics import FramesMade, Metrics
from server.settings import Limits
from server.workers.channel import Message
from server.workers.pool import WorkerPool
from server.workers.ticket import Ticket, TicketCancelled

ATTEMPTS = 3
"""A job whose worker dies this often has failed."""
_CLEAN_EVERY_SECONDS = 60.0
_RETRY_SECONDS = 5.0


class JobRunner:
    """Runs the jobs of one store on one pool.

    Args:
        store: the rows; its methods run in threads here.
        root: holds one folder per job.
    """

    def __init__(
        self, store: JobStore, root: Path, pool: WorkerPool, limits: Limits, metrics: Metrics
    ) -> None:
        self._store = store
        self._root = root
        self._pool = pool
        self._limits = limits
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._tickets: dict[str, Ticket] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._progress: dict[str, Progress] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._stopping = False
        self._begins_none = False
        self._begun: set[str] = set()
        """Jobs that a worker has begun with since this process runs, until they are removed."""
        self.throughput = Throughput()

    async def start(self) -> None:
        """Takes up what an earlier process left, then runs jobs until ``stop``."""
        resumed = await asyncio.to_thread(self._store.recover, time.time())
        await asyncio.to_thread(self._remove_strays)
        if resumed:
            log_event("jobs_resumed", count=resumed)
        self._loops = [
            asyncio.create_task(self._run_queue()),
            asyncio.create_task(self._clean_for_ever()),
        ]

    async def stop(self) -> None:
        """Stops the running jobs; their finished segments stay and they wait for the next start."""
        self._stopping = self._begins_none = True
        for loop in self._loops:
            loop.cancel()
        for ticket in self._tickets.values():
            self._pool.cancel(ticket)
        await asyncio.gather(*self._loops, *self._running.values(), return_exceptions=True)
        self.wake_watchers()

    def adopt(self, job_id: str, ticket: Ticket) -> None:
        """Makes ``cancel`` reach a ticket that somebody else runs, until ``release``."""
        self._tickets[job_id] = ticket

    def release(self, job_id: str) -> None:
        """Forgets what was adopted, and its progress."""
        self._tickets.pop(job_id, None)
        self._progress.pop(job_id, None)

    def folder(self, job_id: str) -> JobFolder:
        """Where the bytes of a job lie."""
        return JobFolder(self._root / job_id)

    def notice(self) -> None:
        """There may be a new job in the store."""
        self._wake.set()

    def progress(self, job: Job) -> Progress:
        """How far ``job`` is."""
        known = self._progress.get(job.id)
        known = known or Progress(frames=job.frames, frames_total=job.frames_total)
        known.is_waiting = job.kind == "job" and job.id not in self._begun
        return known

    def set_progress(self, job_id: str, message: Message) -> None:
        """Takes over what a worker reported."""
        known = self._progress.setdefault(job_id, Progress())
        for name in ("frames", "frames_total", "fps", "eta_seconds", "stages_ms", "has_preview"):
            if name in message:
                setattr(known, name, message[name])
        self._signal(job_id)

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job now, and again after every change, until it has ended or was deleted.

        Raises:
            ApiError: the server stops before the job has ended.
        """
        while True:
            changed = self._changed.setdefault(job_id, asyncio.Event())
            job = await asyncio.to_thread(self._store.get, job_id)
            if job is None:
                return
            yield job
            if job.is_finished or self._stopping:
                self._signal(job_id)  # also forgets the event
                if job.is_finished:
                    return
                raise stopping()
            await changed.wait()

    def wake_watchers(self) -> None:
        """Makes every ``watch`` look again, e.g. because the server stops."""
        self._stopping = True
        for job_id in list(self._changed):
            self._signal(job_id)

    async def cancel(self, job: Job) -> None:
        """Ends ``job`` as cancelled; returns when its worker has let go of it."""
        await self.finish(job.id, state="cancelled")
        ticket = self._tickets.get(job.id)
        if ticket is not None:
            self._pool.cancel(ticket)
        task = self._running.get(job.id)
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def delete(self, job: Job) -> None:
        """Cancels ``job`` when it is not finished, then removes its bytes and its row."""
        if not job.is_finished:
            await self.cancel(job)
        await asyncio.to_thread(self._remove, job.id)
        self._progress.pop(job.id, None)
        self._signal(job.id)

    async def finish(self, job_id: str, **changes: Any) -> None:
        """Writes a final state, unless there is one already, and tells the watchers."""
        changes["finished_at"] = time.time()
        await asyncio.to_thread(self._store.finish, job_id, **changes)
        self._signal(job_id)

    def _signal(self, job_id: str) -> None:
        changed = self._changed.pop(job_id, None)
        if changed is not None:
            changed.set()

    async def _run_queue(self) -> None:
        while True:
            self._wake.clear()
            while len(self._running) < self._pool.long_capacity:
                job = await self._claim()
                if job is None:
                    break
                task = asyncio.create_task(self._run(job))
                self._running[job.id] = task
                task.add_done_callback(partial(self._ended, job.id))
            await self._wake.wait()

    async def _claim(self) -> Job | None:
        """The next job; waits as long as the disk is full."""
        while True:
            try:
                return await asyncio.to_thread(self._store.claim)
            except ApiError as error:
                log_event("jobs_wait", problem=error.message)
                await asyncio.sleep(_RETRY_SECONDS)

    def _ended(self, job_id: str, _: asyncio.Task[None]) -> None:
        self._running.pop(job_id, None)
        self._tickets.pop(job_id, None)
        self._progress.pop(job_id, None)
        self._wake.set()

    async def _run(self, job: Job) -> None:
        try:
            await self._run_to_outcome(job)
        except Exception:  # the outermost edge of a job
            log_bug("job_failed_badly", job=job.id)
            error = ApiError("internal", "the server failed at this job")
            await self.finish(job.id, state="failed", error=error.to_dict())

    async def _run_to_outcome(self, job: Job) -> None:
        folder = self.folder(job.id)
        made = FramesMade(self._metrics.frames.labels("job"), resumed=job.started_at is not None)

        def on_event(message: Message) -> None:
            made.see(message.get("frames"))
            self.set_progress(job.id, message)

        ticket = Ticket(
            "job",
            {"kind": "job", "folder": str(folder.path), "options": job.options},
            on_event=on_event,
            stall_seconds=self._limits.stall_seconds,
            retries=ATTEMPTS - 1,
        )
        self._tickets[job.id] = ticket
        now = await asyncio.to_thread(self._store.get, job.id)
        if now is None or now.is_finished:  # cancelled before it began
            return
        try:
            result = await self._outcome(job, ticket)
        except TicketCancelled:
            await self._on_cancelled(job)
        except ApiError as error:
            if error.code == "stopping":
                await self._on_cancelled(job)
                return
            self._metrics.tasks.labels("job", error.code).inc()
            # First, because a full disk could not even take the row that says so.
            await asyncio.to_thread(folder.remove_pieces)
            await self.finish(job.id, state="failed", error=error.to_dict())
        else:
            self._metrics.tasks.labels("job", "done").inc()
            made.see(result["frames"])
            await self._on_done(job, result)

    async def _outcome(self, job: Job, ticket: Ticket) -> Message:
        """What the job ends with: in one piece on one worker, in parts on several."""
        if self._begins_none or ticket.cancel_requested.is_set():  # since it was claimed
            raise TicketCancelled
        beginning = asyncio.create_task(self._on_begin(job, ticket))
        try:
            if self._pool.long_capacity > 1:
                segments = self.folder(job.id).segments
                return await SplitJob(self._pool, ticket, segments).run()
            self._pool.submit(ticket)
            return await ticket.outcome
        finally:
            if not ticket.started.is_set():
                beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)

    async def _on_begin(self, job: Job, ticket: Ticket) -> None:
        await ticket.started.wait()
        self._begun.add(job.id)
        self._signal(job.id)
        if job.started_at is None:
            with contextlib.suppress(ApiError):  # the disk is full: the job will say so
                await asyncio.to_thread(self._store.update, job.id, started_at=time.time())

    async def _on_done(self, job: Job, result: Message) -> None:
        self._metrics.stages.add_times("job", result["stages"])
        self.throughput.add(result["manifest"])
        if result["fps"]:
            self._metrics.fps.set(result["fps"])
        names = ("frames", "result_name", "result_bytes", "result_type", "manifest")
        changes = {name: result[name] for name in names}
        await self.finish(job.id, state="done", frames_total=result["frames"], **changes)
        await asyncio.to_thread(self.folder(job.id).remove_pieces)

    async def _on_cancelled(self, job: Job) -> None:
        now = await asyncio.to_thread(self._store.get, job.id)
        if now is not None and not now.is_finished:  # the server stops: it waits for the next one
            await asyncio.to_thread(self._store.update, job.id, state="queued")
        elif now is not None:
            await asyncio.to_thread(self.folder(job.id).remove_pieces)

    async def _clean_for_ever(self) -> None:
        while True:
            try:
                await self._remove_expired()
            except ApiError as error:  # the disk is full; what was removed may be what it needs
                log_event("jobs_wait", problem=error.message)
            await asyncio.sleep(_CLEAN_EVERY_SECONDS)

    async def _remove_expired(self) -> None:
        before = time.time() - self._limits.result_ttl_seconds
        for job_id in await asyncio.to_thread(self._store.expired, before):
            await asyncio.to_thread(self._remove, job_id)
            log_event("job_expired", job=job_id)

    def _remove(self, job_id: str) -> None:
        shutil.rmtree(self._root / job_id, ignore_errors=True)
        self._store.delete(job_id)
        self._begun.discard(job_id)

    def _remove_strays(self) -> None:
        """Folders without a row: their upload was cut off before it was promised anything."""
        known = self._store.ids()
        for path in self._root.iterdir():
            if path.name not in known:
                with contextlib.suppress(OSError):
                    shutil.rmtree(path)
