"""The pool: as many supervised workers as wanted, and the queues in front of them.

Each slot is a loop: start a worker, give it tickets, replace it when it died (with back-off) or
has done enough. A dead worker fails or retries only the ticket it held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import ApiError
from server.logs import log_event
from server.workers.channel import Message
from server.workers.process import CANCEL_SECONDS, WorkerDied, WorkerProcess, WorkerUnusable
from server.workers.ticket import KINDS, Ticket, TicketCancelled, TicketKind

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.1, 30.0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How many workers, of what, and how long they live."""

    command: Sequence[str]
    """Starts a worker; the descriptor and the configuration are appended."""
    configs: Sequence[Message]
    """One per worker."""
    recycle_tasks: int = 200
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
    is_stand_in: bool = False
    """Serves only pictures, and only until a real worker is ready."""
    retired: bool = False
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
                _fail(queue.popleft(), TicketCancelled())
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
        """Submits ``ticket`` and waits for its result; a caller that goes away cancels it.

        Raises:
            ApiError: 503 no worker took it in time, or what the task failed with.
        """
        self.submit(ticket)
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
            _fail(ticket, TicketCancelled())
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

    async def _next_ticket(self, slot: Slot, worker: WorkerProcess) -> Ticket | None:
        """The next ticket for an idle worker, None when it is retired.

        Raises:
            WorkerDied: it died of idleness.
        """
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
                log_event("worker_died", worker=slot.index, failures=slot.failures)
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
            for _ in range(self._options.recycle_tasks):
                self._set_state(slot, "idle")
                ticket = await self._next_ticket(slot, worker)
                if ticket is None:
                    return
                await self._work(slot, worker, ticket)
                slot.failures = 0
        except asyncio.CancelledError:
            worker.kill()
            raise
        finally:
            slot.worker = None
            await worker.close()

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
        ticket.started.set()
        watch = asyncio.create_task(_watch(worker, ticket))
        try:
            message = await worker.run(ticket.task, lambda event: _hear(ticket, event))
            if message["event"] == "unfit":
                self._settle_dead(ticket, ApiError.from_dict(message["error"]), retry=True)
                raise _WorkerUnfit
            _settle(ticket, message)
        except _WorkerUnfit:
            raise
        except WorkerDied:
            reason = watch.result() if watch.done() and not watch.cancelled() else None
            # A job that stood still goes on after its last segment: a device may hang only once.
            again = reason is None or ticket.kind == "job"
            self._settle_dead(ticket, reason or _died(), retry=again)
            raise
        except asyncio.CancelledError:
            _fail(ticket, TicketCancelled())
            raise
        finally:
            watch.cancel()
            self._long_running -= long
            slot.works_long = False
            self._notify()

    def _settle_dead(self, ticket: Ticket, error: ApiError, *, retry: bool) -> None:
        if ticket.cancel_requested.is_set():
            _fail(ticket, TicketCancelled())
        elif retry and ticket.retries > 0:
            ticket.retries -= 1
            self._queues[ticket.kind].appendleft(ticket)
        else:
            _fail(ticket, error)


def _died() -> ApiError:
    return ApiError("engine_failed", "the worker process died while it worked on this")


async def _watch(worker: WorkerProcess, ticket: Ticket) -> ApiError | None:
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


def _hear(ticket: Ticket, message: Message) -> None:
    ticket.touch()
    ticket.on_event(message)


def _settle(ticket: Ticket, message: Message) -> None:
    if "bug" in message:
        log_event("task_bug", task=ticket.task.get("kind"), traceback=message["bug"])
    match message["event"]:
        case "done":
            if not ticket.outcome.done():
                ticket.outcome.set_result(message["result"])
        case "cancelled":
            _fail(ticket, TicketCancelled())
        case _:
            _fail(ticket, ApiError.from_dict(message["error"]))


def _fail(ticket: Ticket, error: Exception) -> None:
    if not ticket.outcome.done():
        ticket.outcome.set_exception(error)
        ticket.outcome.exception()  # marks it as seen: the caller may be gone
