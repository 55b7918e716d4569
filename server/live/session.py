"""One live stream in the HTTP process: client, window, worker, and the clocks that end it.

The pixels are only passed on. Whatever is wrong ends as an ``ApiError``, which the route turns
into the one error form and a close code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from server.errors import ApiError
from server.live.link import Result, WorkerLink
from server.live.options import LiveOptions, parse_message
from server.live.registry import STOP_SECONDS
from server.live.stats import LiveStats
from server.live.window import FrameWindow, Pace
from server.live.wire import HEADER_BYTES, AnswerHeader
from server.metrics import Metrics
from server.settings import Limits
from server.workers.ticket import Ticket, TicketCancelled

STATS_SECONDS = 1.0


class ClientLeft(Exception):
    """The client closed the connection, or takes nothing any more."""


class Client(Protocol):
    """The other end of the WebSocket."""

    async def receive(self) -> str | bytes:
        """The next message. Raises ClientLeft."""

    async def send_message(self, message: dict[str, Any]) -> None:
        """Sends JSON text. Raises ClientLeft."""

    async def send_frame(self, message: bytearray) -> None:
        """Sends a binary message. Raises ClientLeft."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session needs of the server."""

    limits: Limits
    metrics: Metrics
    stopping: asyncio.Event


class LiveSession:
    """Moves frames until the client ends, leaves or errs, the worker fails, or the server stops."""

    def __init__(
        self,
        client: Client,
        link: WorkerLink,
        ticket: Ticket,
        options: LiveOptions,
        around: Surroundings,
    ) -> None:
        self._client = client
        self._link = link
        self._ticket = ticket
        self._options = options
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._window = FrameWindow(options.mode, options.in_work)
        self._pace = Pace(around.limits.max_live_fps)
        self._stats = LiveStats()
        self._room = asyncio.Event()
        self._work = asyncio.Event()
        self._ending = False
        self._sending = False
        self._began = self._last_frame = self._loop.time()

    async def run(self) -> dict[str, Any]:
        """Serves the stream; returns its last statistics.

        Raises:
            ApiError: why it had to end.
            ClientLeft: nobody is there any more.
        """
        answering = asyncio.create_task(self._answer())
        others = [
            asyncio.create_task(part)
            for part in (self._receive(), self._feed(), self._watch_clocks(), self._watch_stop())
        ]
        try:
            waits: set[asyncio.Future[Any]] = {answering, self._ticket.outcome, *others}
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._ticket.outcome in done or (answering in done and not answering.exception()):
                # Results that it handed over before it failed, and why it ended, come apart.
                both: set[asyncio.Future[Any]] = {answering, self._ticket.outcome}
                await asyncio.wait(both, timeout=STOP_SECONDS)
            for task in others:
                if task.done():
                    task.result()
            self._raise_worker_error()
            if answering.done():
                answering.result()
            if self._around.stopping.is_set():
                raise _stopping()
            if not self._window.is_empty:
                raise ApiError("engine_failed", "the worker ended before it answered every frame")
            return self._stats.message("end", self._window, self._loop.time())
        finally:
            self._count_frames()
            for task in (answering, *others):
                task.cancel()
            await asyncio.gather(answering, *others, return_exceptions=True)

    def _raise_worker_error(self) -> None:
        outcome = self._ticket.outcome
        if outcome.done() and (error := outcome.exception()) is not None:
            raise _stopping() if isinstance(error, TicketCancelled) else error

    async def _receive(self) -> None:
        """Reads the client for as long as frames may come."""
        while True:
            while not self._window.has_room:
                self._room.clear()
                await self._room.wait()
            message = await self._client.receive()
            if self._ending:
                self._refuse_after_end(message)
            elif isinstance(message, str):
                self._end_if_asked(message)
            else:
                await self._accept(message)

    def _end_if_asked(self, text: str) -> None:
        if parse_message(text) != {"type": "end"}:
            raise ApiError("bad_request", 'the only text message during a stream is {"type":"end"}')
        self._end()

    def _end(self) -> None:
        self._ending = True
        self._work.set()

    def _refuse_after_end(self, message: str | bytes) -> None:
        """What comes while the server stops is not taken; a client that ended sends nothing."""
        if isinstance(message, bytes) and not self._around.stopping.is_set():
            raise ApiError("bad_request", "a frame came after the end of its stream")

    async def _accept(self, payload: bytes) -> None:
        now = self._last_frame = self._loop.time()
        self._options.check_payload(self._window.received, payload)
        wait = self._pace.wait_seconds(now)
        if wait and self._options.mode == "latest":
            self._window.refuse()
            return
        if wait:
            await asyncio.sleep(wait)
        self._pace.take(self._loop.time())
        if self._window.is_empty:
            self._ticket.touch()  # the watchdog counts from here
        self._window.offer(payload, now)
        self._work.set()

    async def _feed(self) -> None:
        """Hands frames to the worker; after the last one, that this was the last."""
        while True:
            frame = self._window.take()
            if frame is not None:
                self._room.set()
                try:
                    await self._link.send(frame)
                except OSError:
                    break  # how the worker ended is for its outcome to say
            elif self._ending and not self._window.has_waiting:
                self._link.send_end()
                break
            else:
                self._work.clear()
                await self._work.wait()
        await asyncio.Event().wait()

    async def _answer(self) -> None:
        """Passes results on until the worker ends its side."""
        while (result := await self._link.receive()) is not None:
            self._ticket.touch()
            arrived = self._window.answer(result.number)
            now = self._loop.time()
            latency = now - arrived.at
            self._put_header(result, latency * 1e3)
            self._stats.add(latency * 1e3, now)
            self._around.metrics.live_latency_seconds.observe(latency)
            self._work.set()
            self._sending = True
            await self._client.send_frame(result.message)
            self._sending = False

    def _put_header(self, result: Result, latency_ms: float) -> None:
        width, height = self._options.answer_size
        header = AnswerHeader(
            frame=result.number,
            width=width,
            height=height,
            format=self._options.answer,
            latency_ms=latency_ms,
            work_ms=result.work_ms,
            dropped=self._window.dropped,
        )
        result.message[:HEADER_BYTES] = header.pack()

    async def _watch_clocks(self) -> None:
        """Statistics every second; the ends that come by time."""
        limits = self._around.limits
        while True:
            await asyncio.sleep(min(STATS_SECONDS, limits.live_idle_seconds / 4))
            now = self._loop.time()
            if self._window.is_empty or self._sending:
                self._ticket.touch()  # not the worker's fault
            if self._window.is_empty and now - self._last_frame > limits.live_idle_seconds:
                raise ApiError(
                    "too_slow",
                    "no frame came for too long; open a new stream",
                    limit=limits.live_idle_seconds,
                )
            if now - self._began > limits.live_seconds:
                raise ApiError(
                    "timed_out",
                    "this stream is too long; open a new one",
                    limit=limits.live_seconds,
                )
            if not self._sending:
                await self._client.send_message(self._stats.message("stats", self._window, now))

    async def _watch_stop(self) -> None:
        """When the server stops, frames in work are finished, within a few seconds."""
        await self._around.stopping.wait()
        self._end()
        await asyncio.sleep(STOP_SECONDS)

    def _count_frames(self) -> None:
        metrics, window = self._around.metrics, self._window
        metrics.live_frames.labels("answered").inc(window.answered)
        metrics.live_frames.labels("dropped").inc(window.dropped)
        metrics.frames.labels("live").inc(window.answered)


def _stopping() -> ApiError:
    return ApiError("stopping", "the server is stopping; open the stream again in a moment")


async def first_of(work: Coroutine[Any, Any, None], outcome: asyncio.Future[Any]) -> None:
    """Waits for ``work``, or for ``outcome`` to say why it will never be done.

    Raises:
        ApiError, TicketCancelled: the outcome's.
    """
    working = asyncio.ensure_future(work)
    try:
        waits: set[asyncio.Future[Any]] = {working, outcome}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        elif outcome.exception() is None:
            raise ApiError("engine_failed", "the worker ended before the stream began")
        else:
            outcome.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
