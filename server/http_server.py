"""uvicorn with what it lacks: limits of time and chunks for a request, a stop that is announced.

Without it an idle or dripping socket is kept for ever (encode/uvicorn#157).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server.service import Service
from server.settings import Settings

RECEIVE_BYTES = 32 * 1024
"""Taken from a socket at once. h11 needs 5 us for a chunk, and asyncio's 256 KiB hold 43,000 chunks
of one byte: a quarter of a second for which nobody else would be heard."""
MAX_SMALL_CHUNKS = 65_536
"""Of one request, beyond one for each ``BYTES_PER_CHUNK``; the connection is closed then."""
BYTES_PER_CHUNK = 512


def protocol_class(header_seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP protocol that hangs up when headers take longer than this."""

    class TimedProtocol(H11Protocol):
        """Starts a timer with the connection and with each answer; a request stops it."""

        def connection_made(self, transport: Any) -> None:
            transport.max_size = RECEIVE_BYTES
            self._bytes = self._lines = 0
            super().connection_made(transport)
            self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            self._bytes += len(data)
            self._lines += data.count(b"\r\n")  # two for each chunk, next to none in media
            if self._lines / 2 > MAX_SMALL_CHUNKS + self._bytes / BYTES_PER_CHUNK:
                self.transport.abort()
                return
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            if self.transport.get_protocol() is not self:  # it is a WebSocket now
                self._timer.cancel()
            if self.cycle is not None and not self.cycle.response_complete:
                self._timer.cancel()

        def on_response_complete(self) -> None:
            self._timer.cancel()
            self._bytes = self._lines = 0
            self._wait_for_headers()  # before super, which may begin with a pipelined request
            super().on_response_complete()

        def _wait_for_headers(self) -> None:
            self._timer = self.loop.call_later(header_seconds, self._hang_up)

        def _hang_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return TimedProtocol


def stream_protocol_class(slow_reader_seconds: float) -> type[WebSocketsSansIOProtocol]:
    """uvicorn's WebSocket protocol that gives up a reader which takes nothing for this long.

    What waits for it, up to two large frames, would otherwise stay in memory for as long as it
    keeps the connection: closing waits until everything has been sent.
    """

    class ImpatientProtocol(WebSocketsSansIOProtocol):
        """Watches what waits to be sent while that is too much."""

        _watch: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            self._stop_watching()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def _wait(self, unsent_bytes: int) -> None:
            self._watch = self.loop.call_later(slow_reader_seconds, self._look, unsent_bytes)

        def _look(self, unsent_bytes: int) -> None:
            now = self.transport.get_write_buffer_size()
            if now >= unsent_bytes:
                self.transport.abort()
            else:
                self._wait(now)

        def _stop_watching(self) -> None:
            if self._watch is not None:
                self._watch.cancel()

    return ImpatientProtocol


class AnnouncedServer(uvicorn.Server):
    """Tells the service of the stop before it waits for the requests that are still running."""

    def __init__(self, config: uvicorn.Config, service: Service, on_start: Callable[[], None]):
        super().__init__(config)
        self._service = service
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then ``on_start``."""
        await super().startup(sockets)
        if self.started:
            self._watch = asyncio.create_task(self._stop_when_hopeless())
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, after ``begin_stop``."""
        self._watch.cancel()
        self._service.begin_stop()
        await self._service.live.ended()  # uvicorn would cut them off in the middle of a frame
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which would raise SIGTERM again at the end; here a stop exits with 0."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def _stop_when_hopeless(self) -> None:
        """An engine that was asked for and cannot run ends the server, with its reason."""
        await self._service.hopeless.wait()
        self.should_exit = True


def make_server(
    app: FastAPI, settings: Settings, service: Service, on_start: Callable[[], None]
) -> AnnouncedServer:
    """A server for ``app`` that is not started yet; give ``serve`` a bound socket."""
    config = uvicorn.Config(
        app,
        http=protocol_class(settings.limits.header_seconds),
        ws=stream_protocol_class(settings.limits.slow_reader_seconds),
        # The largest live frame, and room for one that is refused in words.
        ws_max_size=3 * settings.limits.max_live_pixels + 256 * 1024,
        # Frames hardly shrink, and a small message must not become a large one.
        ws_per_message_deflate=False,
        # A stream ends by its own clocks; a ping is not answered by a client that waits to send.
        ws_ping_interval=None,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        backlog=2048,
        # Ours, above, ends idle connections. Five seconds, uvicorn's, is also when many clients
        # give them up: both at once looks like a server that hangs up on a request.
        timeout_keep_alive=3600,
        h11_max_incomplete_event_size=16 * 1024,
        timeout_graceful_shutdown=max(1, round(settings.limits.stop_seconds)),
    )
    return AnnouncedServer(config, service, on_start)
