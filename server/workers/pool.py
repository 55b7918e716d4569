"""The pool: as many supervised workers as wanted, and the queues in front of them.

Each slot is a loop: start a worker, give it tickets, replace it when it died (with back-off) or
has done enough. A dead worker fails or retries only the ticket it held; one that it had not begun
waits for the next worker as if it had never been handed out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from server.errors import ApiError
from server.logs import log_event
from server.workers.channel import Message
from server.workers.process import WorkerDied, WorkerProcess, WorkerUnusable
from server.workers.settling import WorkerLost, died, fail, hear, log_failure, settle
from server.workers.ticket import KINDS, Ticket, TicketCancelled, TicketKind
from server.workers.watchdog import watch

LONG_TASK_WEIGHT = 50
"""Pictures that wear a worker out as much as one video, job or live stream."""
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.1, 30.0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How many workers, of what, and how long they live."""

    command: Sequence[str]
    """Starts a worker; the descriptor and the configuration are appended."""
    configs: Sequence[Message]
    """One per worker."""
    recycle_tasks: int = 10_000
    """A worker is replaced after this many; a video, job or live
    stream counts as ``LONG_TASK_WEIGHT``."""
    queue_limits: dict[TicketKind, int] = field(default_factory=dict)
    """Tickets of a kind that may wait; no entry is no limit."""


@dataclass(slots=True)
class Slot:
    """A place for one worker and what is known of the worker in it."""

    index: int
    config: Message
    state: str = "starting"
    """``starting``, ``building``, ``idle``, ``busy``, ``restarting`` or ``unusable``."""
    worker: WorkerProcess | None = None
    engine: Message = field(default_factory=dict)
    sandbox: dict[str, bool] = field(default_factory=dict)
    """What the media children of this worker really give up."""
    build: Message | None = None
    """``what`` and ``fraction`` while a plan is built."""
    problem: str | None = None
    """Why the worker cannot start, in one sentence."""
    failures: int = 0
    """Deaths in a row without a finished task."""
    exit_status: int | None = None
    """Of the worker before; a negative one is the signal that ended it."""
    is_stand_in: bool = False
    """Serves only pictures, and only until a real worker is ready."""
    retired: bool = False
    is_up: bool = False
    """Whether its worker has said that it is ready, and lives."""
    works_long: bool = False
    """Whether it is at a ticket that is no picture."""


class _WorkerUnfit(WorkerDied):
    """The worker says that its engine must not be trusted any more; it ends itself."""


class WorkerPool:
    """Runs tickets on workers. Everything here happens on one event loop."""

    def __init__(
        self,
        options: PoolOptions,
        on_change: Callable[[], None] = lambda: None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = options
        self._on_change = on_change
        self._on_death = on_death
        self._queues: dict[TicketKind, deque[Ticket]] = {kind: deque() for kind in KINDS}
        self._long_running = 0
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self.slots = [Slot(index, config) for index, config in enumerate(options.configs)]

    @property
    def long_capacity(self) -> int:
        """Videos and jobs at once: one worker stays free for pictures where there are two."""
        return max(1, sum(not slot.is_stand_in for slot in self.slots) - 1)

    @property
    def is_ready(self) -> bool:
        """Whether some worker, stand-ins aside, can take work."""
        return any(slot.state in ("idle", "busy") for slot in self.slots if not slot.is_stand_in)

    @property
    def stand_in(self) -> Slot | None:
        """The worker that serves pictures while the real ones build their plans."""
        return next((slot for slot in self.slots if slot.is_stand_in), None)

    @property
    def problem(self) -> str | None:
        """Why no worker can ever start here; None while one may."""
        problems = [slot.problem for slot in self.slots if slot.state == "unusable"]
        return problems[0] if len(problems) == len(self.slots) else None

    def queued(self, kind: TicketKind) -> int:
        """Tickets of this kind that wait."""
        return len(self._queues[kind])

    def start(self) -> None:
        """Starts every slot."""
        self._loops = [asyncio.create_task(self._run_slot(slot)) for slot in self.slots]

    def add_stand_in(self, config: Message) -> None:
        """Starts one more worker, for pictures only, until ``retire_stand_in``."""
        slot = Slot(len(self.slots), config, is_stand_in=True)
        self.slots.append(slot)
        self._loops.append(asyncio.create_task(self._run_slot(slot)))

    def retire_stand_in(self) -> None:
        """Ends the stand-in after the picture it works on."""
        slot = self.stand_in
        if slot is not None:
            slot.retired = True
            self.slots.remove(slot)
            self._notify()

    async def stop(self) -> None:
        """Cancels what runs and what waits, and ends every worker."""
        self._stopping.set()
        for queue in self._queues.values():
            while queue:
                fail(queue.popleft(), TicketCancelled())
        self._notify()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def submit(self, ticket: Ticket) -> None:
        """Queues ``ticket``; its outcome comes through ``ticket.outcome``.

        Raises:
            ApiError: 503 the queue of its kind is full, or the server stops.
        """
        if self._stopping.is_set():
            raise ApiError("stopping", "the server is stopping; try again in a moment")
        queue = self._queues[ticket.kind]
        limit = self._options.queue_limits.get(ticket.kind)
        if limit is not None and len(queue) >= limit + self.idle_for(ticket.kind):
            raise ApiError(
                "queue_full",
                f"the queue is full ({len(queue)} {ticket.kind}s wait); try again soon",
                limit=limit,
                actual=len(queue),
            )
        queue.append(ticket)
        self._notify()

    async def run(self, ticket: Ticket, queue_seconds: float) -> Message:
        """``submit`` and ``result``."""
        self.submit(ticket)
        return await self.result(ticket, queue_seconds)

    async def result(self, ticket: Ticket, queue_seconds: float) -> Message:
        """Waits for what becomes of ``ticket``; a caller that goes away cancels it.

        Raises:
            ApiError: 503 no worker took it in time, or what the task failed with.
        """
        try:
            await self.wait_started(ticket, queue_seconds)
            return await asyncio.shield(ticket.outcome)
        except asyncio.CancelledError:
            self.cancel(ticket)
            raise

    async def wait_started(self, ticket: Ticket, queue_seconds: float) -> None:
        """Returns when a worker has taken ``ticket`` or it has ended. Raises ApiError 503."""
        started = asyncio.ensure_future(ticket.started.wait())
        waits: set[asyncio.Future[Any]] = {started, ticket.outcome}
        try:
            await asyncio.wait(waits, timeout=queue_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        if not ticket.started.is_set() and not ticket.outcome.done():
            self.cancel(ticket)
            raise ApiError(
                "queue_full", "no worker was free in time; try again soon", limit=queue_seconds
            )

    def cancel(self, ticket: Ticket) -> None:
        """Takes ``ticket`` out of its queue, or asks its worker to stop it."""
        ticket.cancel_requested.set()
        if ticket in self._queues[ticket.kind]:
            self._queues[ticket.kind].remove(ticket)
            fail(ticket, TicketCancelled())
            self._notify()

    def idle_for(self, kind: TicketKind) -> int:
        """Workers that would take a ticket of this kind at once."""
        if kind == "picture":
            return sum(slot.state == "idle" for slot in self.slots)
        idle = sum(slot.state == "idle" and not slot.is_stand_in for slot in self.slots)
        return min(idle, self.long_capacity - self._long_running)

    def _notify(self) -> None:
        self._changed.set()
        self._on_change()

    def _set_state(self, slot: Slot, state: str) -> None:
        slot.state = state
        self._notify()

    def _take(self, slot: Slot) -> Ticket | None:
        for kind in KINDS:
            full = slot.is_stand_in or self._long_running >= self.long_capacity
            if kind != "picture" and (full or self._another_device_is_free(slot)):
                break
            if self._queues[kind]:
                return self._queues[kind].popleft()
        return None

    def _another_device_is_free(self, slot: Slot) -> bool:
        """Whether ``slot`` would make its device do two long things while another one rests."""
        loaded = {each.config.get("device") for each in self.slots if each.works_long}
        return slot.config.get("device") in loaded and any(
            each.state == "idle"
            and not each.is_stand_in
            and each.config.get("device") not in loaded
            for each in self.slots
        )

    def _another_is_away(self, slot: Slot) -> bool:
        """Whether ``slot`` must stay: workers wear out at the same pace, and a start takes a second
        in which nobody would serve."""
        return any(
            not each.is_up and each.state != "unusable" and not each.is_stand_in
            for each in self.slots
            if each is not slot
        )

    async def _next_ticket(self, slot: Slot, worker: WorkerProcess) -> Ticket | None:
        """The next ticket for an idle worker, None when it is retired.

        Raises:
            WorkerDied: it died of idleness.
        """
        if (ticket := self._take(slot)) is not None:
            return ticket
        dead = asyncio.create_task(worker.wait_dead())
        try:
            while (ticket := self._take(slot)) is None and not slot.retired:
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({dead, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if dead.done():
                    raise WorkerDied
            return ticket
        finally:
            dead.cancel()

    async def _run_slot(self, slot: Slot) -> None:
        while not self._stopping.is_set() and not slot.retired:
            try:
                await self._run_worker(slot)
            except WorkerUnusable as error:
                slot.problem = str(error)
                log_event("worker_unusable", worker=slot.index, problem=slot.problem)
                self._set_state(slot, "unusable")
                return
            except (WorkerDied, OSError):  # OSError: no process could be started
                slot.failures += 1
                self._on_death()
                log_event(
                    "worker_died",
                    worker=slot.index,
                    failures=slot.failures,
                    exit_status=slot.exit_status,
                )
                self._set_state(slot, "restarting")
                backoff = FIRST_BACKOFF_SECONDS * 2 ** (slot.failures - 1)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._stopping.wait(), min(backoff, LONGEST_BACKOFF_SECONDS)
                    )

    async def _run_worker(self, slot: Slot) -> None:
        """One worker's life. Raises WorkerDied, WorkerUnusable."""
        worker = await WorkerProcess.start(self._options.command, slot.config)
        slot.worker = worker
        try:
            await worker.wait_ready(lambda message: self._on_start_event(slot, message))
            slot.engine, slot.build = worker.engine, None
            slot.sandbox = worker.sandbox
            if missing := [name for name, held in slot.sandbox.items() if not held]:
                log_event("sandbox_incomplete", worker=slot.index, missing=missing)
            slot.is_up = True
            wear = 0
            while wear < self._options.recycle_tasks or self._another_is_away(slot):
                self._set_state(slot, "idle")
                ticket = await self._next_ticket(slot, worker)
                if ticket is None:
                    return
                await self._work(slot, worker, ticket)
                wear += 1 if ticket.kind == "picture" else LONG_TASK_WEIGHT
                slot.failures = 0
        except asyncio.CancelledError:
            worker.kill()
            raise
        finally:
            slot.worker, slot.is_up = None, False
            await worker.close()
            slot.exit_status = worker.exit_status

    def _on_start_event(self, slot: Slot, message: Message) -> None:
        if message["event"] == "building":
            slot.build = {"what": message["what"], "fraction": message["fraction"]}
            self._set_state(slot, "building")

    async def _work(self, slot: Slot, worker: WorkerProcess, ticket: Ticket) -> None:
        """Runs one ticket. Raises WorkerDied after having settled the ticket."""
        long = ticket.kind != "picture"
        self._long_running += long
        slot.works_long = long
        self._set_state(slot, "busy")
        ticket.engine = worker.engine
        ticket.touch()
        watchdog = asyncio.create_task(watch(worker, ticket))
        try:
            message = await worker.run(ticket.task, partial(hear, ticket), ticket.started.set)
            if message["event"] == "unfit":
                self._settle_dead(ticket, WorkerLost.from_dict(message["error"]), retry=True)
                raise _WorkerUnfit
            settle(ticket, message)
        except _WorkerUnfit:
            raise
        except WorkerDied:
            if not worker.has_begun and not ticket.cancel_requested.is_set():
                # It was dead when this was handed to it: for the ticket nothing has happened.
                self._requeue(ticket)
                raise
            reason = watchdog.result() if watchdog.done() and not watchdog.cancelled() else None
            # A job that stood still goes on after its last segment: a device may hang only once.
            again = reason is None or ticket.kind == "job"
            self._settle_dead(ticket, reason or died(), retry=again)
            raise
        except asyncio.CancelledError:
            fail(ticket, TicketCancelled())
            raise
        finally:
            watchdog.cancel()
            self._long_running -= long
            slot.works_long = False
            self._notify()

    def _settle_dead(self, ticket: Ticket, error: ApiError, *, retry: bool) -> None:
        if ticket.cancel_requested.is_set():
            fail(ticket, TicketCancelled())
        elif retry and ticket.retries > 0:
            ticket.retries -= 1
            self._requeue(ticket)
        else:
            log_failure(ticket, error)
            fail(ticket, error)

    def _requeue(self, ticket: Ticket) -> None:
        if self._stopping.is_set():  # nobody comes any more
            fail(ticket, TicketCancelled())
        else:
            self._queues[ticket.kind].appendleft(ticket)
