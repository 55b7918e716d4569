"""The pool: as many supervised workers as wanted, and the queues in front of them.

Each slot is a loop: start a worker, give it tickets, replace it when it died (with back-off) or
has done enough. A dead worker fails or retries only the ticket it was at; one that it had not begun
waits for the next worker as if it had never been handed out. See ``server.workers.ahead`` for the
pictures in a worker's hands.
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
from server.workers.ahead import Ahead
from server.workers.channel import Message
from server.workers.process import WorkerDied, WorkerProcess, WorkerUnusable
from server.workers.settling import (
    WorkerLost,
    died,
    fail,
    hear,
    may_go_on,
    queue_full,
    settle,
    too_late,
)
from server.workers.slot import Handed, Slot, another_device_is_free, another_is_away
from server.workers.ticket import KINDS, Ticket, TicketCancelled, TicketKind
from server.workers.watchdog import Watchdog

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
    ahead_seconds: float = 0.05
    """How long a picture may wait in the hands of a worker for the end of the one before."""


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
        self._ahead = Ahead(
            self.slots,
            self._queues["picture"],
            self._notify,
            seconds=options.ahead_seconds,
            recycle_tasks=options.recycle_tasks,
        )

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
        """Tickets of this kind that wait, also those in the hands of a worker."""
        return len(self._queues[kind]) + (self._ahead.waiting if kind == "picture" else 0)

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
        limit, waiting = self._options.queue_limits.get(ticket.kind), self.queued(ticket.kind)
        if limit is not None and waiting >= limit + self.idle_for(ticket.kind):
            raise queue_full(ticket.kind, limit, waiting)
        self._queues[ticket.kind].append(ticket)
        self._notify()
        self._ahead.hand_out()

    async def run(self, ticket: Ticket, queue_seconds: float) -> Message:
        """``submit`` and ``result``."""
        self.submit(ticket)
        return await self.result(ticket, queue_seconds)

    async def result(
        self, ticket: Ticket, queue_seconds: float, *unless: asyncio.Future[None]
    ) -> Message:
        """Waits for what becomes of a submitted ``ticket``; a caller that goes away cancels it.

        So does one of ``unless`` that is done first.

        Raises:
            ApiError: 503 no worker took it in time, or what the task failed with.
            TicketCancelled: nobody wants it any more.
        """
        waits: set[asyncio.Future[Any]] = {ticket.outcome, *unless}
        first = asyncio.FIRST_COMPLETED
        try:
            done, _ = await asyncio.wait(waits, timeout=queue_seconds, return_when=first)
            if not done and ticket.started.is_set():
                done, _ = await asyncio.wait(waits, return_when=first)
        except asyncio.CancelledError:
            self.cancel(ticket)
            raise
        if ticket.outcome.done():
            return ticket.outcome.result()
        self.cancel(ticket)
        if done:
            raise TicketCancelled
        raise too_late(queue_seconds)

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
            raise too_late(queue_seconds)

    def cancel(self, ticket: Ticket) -> None:
        """Takes ``ticket`` out of its queue, or asks its worker to stop it."""
        ticket.cancel_requested.set()
        for slot in self.slots:
            if slot.ticket is ticket and slot.watchdog is not None:
                slot.watchdog.look()
        if ticket in self._queues[ticket.kind]:
            self._queues[ticket.kind].remove(ticket)
        elif not self._ahead.drop(ticket):
            return
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
            if kind != "picture" and (full or another_device_is_free(slot, self.slots)):
                break
            if self._queues[kind]:
                return self._queues[kind].popleft()
            if kind == "picture" and self._ahead.call_back():
                return None  # it comes in a moment
        return None

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
            slot.come_up(worker)
            if missing := [name for name, held in slot.sandbox.items() if not held]:
                log_event("sandbox_incomplete", worker=slot.index, missing=missing)
            while (
                slot.ahead
                or slot.wear < self._options.recycle_tasks
                or another_is_away(slot, self.slots)
            ):
                if slot.ahead:
                    handed = slot.ahead.popleft()
                else:
                    self._set_state(slot, "idle")
                    ticket = await self._next_ticket(slot, worker)
                    if ticket is None:
                        return
                    handed = Handed(ticket, worker.next_number)
                await self._work(slot, worker, handed)
                slot.wear += 1 if handed.ticket.kind == "picture" else LONG_TASK_WEIGHT
                slot.failures = 0
        except asyncio.CancelledError:
            worker.kill()
            raise
        finally:
            self._let_go(slot)
            slot.worker, slot.is_up = None, False
            await worker.close()
            slot.exit_status = worker.exit_status

    def _on_start_event(self, slot: Slot, message: Message) -> None:
        if message["event"] == "building":
            slot.build = {"what": message["what"], "fraction": message["fraction"]}
            self._set_state(slot, "building")

    async def _work(self, slot: Slot, worker: WorkerProcess, handed: Handed) -> None:
        """Runs one ticket. Raises WorkerDied after having settled the ticket."""
        ticket = handed.ticket
        long = ticket.kind != "picture"
        self._long_running += long
        slot.works_long = long
        slot.ticket, slot.watchdog = ticket, Watchdog(worker, ticket)
        self._set_state(slot, "busy")
        ticket.engine = worker.engine
        ticket.touch()
        try:
            if handed.number == worker.next_number:  # else it has been sent
                worker.give(ticket.task)
            message = await worker.follow(
                handed.number,
                partial(hear, ticket),
                partial(self._on_begin, slot, ticket),
                partial(self._on_returned, slot),
            )
            if message["event"] == "unfit":
                self._let_go(slot)  # first: what is requeued last goes on first
                if may_go_on(ticket, WorkerLost.from_dict(message["error"])):
                    self._requeue(ticket)
                raise _WorkerUnfit
            if message["event"] == "returned":
                self._requeue(ticket)
            else:
                settle(ticket, message)
                slot.note_end(ticket)
        except _WorkerUnfit:
            raise
        except WorkerDied:
            worker.kill()  # it may only have talked nonsense: nobody else may work for its tickets
            self._let_go(slot)
            if not worker.has_begun and not ticket.cancel_requested.is_set():
                # It was dead when this was handed to it: for the ticket nothing has happened.
                self._requeue(ticket)
                raise
            reason = slot.watchdog.reason
            # A job that stood still goes on after its last segment: a device may hang only once.
            again = reason is None or ticket.kind == "job"
            if may_go_on(ticket, reason or died(), retry=again):
                self._requeue(ticket)
            raise
        except asyncio.CancelledError:
            fail(ticket, TicketCancelled())
            raise
        finally:
            slot.watchdog.stop()
            self._long_running -= long
            slot.works_long, slot.ticket, slot.watchdog = False, None, None
            self._notify()

    def _on_begin(self, slot: Slot, ticket: Ticket) -> None:
        ticket.started.set()
        slot.began_at = asyncio.get_running_loop().time()
        self._ahead.hand_out()

    def _let_go(self, slot: Slot) -> None:
        """What its worker, which works no more, has not begun waits again for anybody."""
        for ticket in self._ahead.taken_back(slot, [handed.number for handed in slot.ahead]):
            self._requeue(ticket)

    def _on_returned(self, slot: Slot, numbers: list[int]) -> None:
        for ticket in self._ahead.taken_back(slot, numbers):
            self._requeue(ticket)
        self._notify()
        self._ahead.hand_out()

    def _requeue(self, ticket: Ticket) -> None:
        if self._stopping.is_set() or ticket.cancel_requested.is_set():  # nobody comes any more
            fail(ticket, TicketCancelled())
        else:
            self._queues[ticket.kind].appendleft(ticket)
