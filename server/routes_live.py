"""``WS /stream``: frames in, frames four times larger out, as long as the client wants.

The protocol is described in ``docs/api-live.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from server.access import Caller
from server.errors import ApiError, error_body
from server.live.link import WorkerLink
from server.live.options import LiveOptions, parse_message, parse_options
from server.live.session import ClientLeft, LiveSession, Surroundings, first_of
from server.live.wire import HEADER_BYTES
from server.logs import log_event
from server.requests import PROTOCOL, ServiceDependency
from server.service import Service
from server.settings import Limits
from server.workers.channel import Message
from server.workers.settling import WorkerLost
from server.workers.ticket import Ticket, TicketCancelled

router = APIRouter(tags=["live"])

Result = TypeVar("Result")

FIRST_CLOSE_CODE = 4000
"""A stream that ends with an error is closed with this plus the error's status."""
GOING_AWAY = 1001


@router.websocket("/stream")
async def stream(websocket: WebSocket, service: ServiceDependency) -> None:
    """One live stream; errors come as the one JSON form, then the connection is closed."""
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    client = _WebSocketClient(websocket, service.limits)
    caller = websocket.scope["caller"]
    assert isinstance(caller, Caller)
    with ExitStack() as stack:  # counted until it is closed: a stop waits for that
        try:
            stack.enter_context(service.live.opened(caller.owner))
            await client.send_message(await _serve(client, service))
            await websocket.close(1000)
        except ApiError as error:
            await _close_with(websocket, client, error)
        except (ClientLeft, WebSocketDisconnect):
            return
        finally:
            await client.forget()


async def _serve(client: _WebSocketClient, service: Service) -> Message:
    """The whole life of a stream; returns its last statistics. Raises ApiError, ClientLeft."""
    options = await client.options()
    await client.send_message({"type": "waiting"})
    with service.spooled("live") as (path,), ExitStack() as stack:
        worker = await _while_there(client, _connected(service, path, options, stack))
        await client.send_message(_hello(options, worker.engine, service.limits))
        around = Surroundings(service.limits, service.metrics, service.live.stopping)
        last = await LiveSession(client, worker.link, worker.ticket, options, around).run()
    log_event("stream_ended", **{name: last[name] for name in ("received", "answered", "dropped")})
    return last


@dataclass(frozen=True, slots=True)
class _Worker:
    """What a stream holds of the worker that has taken it."""

    link: WorkerLink
    ticket: Ticket
    engine: Message

    def let_go(self, service: Service) -> None:
        self.link.close()  # before the worker is told: it then ends by itself
        service.pool.cancel(self.ticket)


async def _connected(
    service: Service, path: Path, options: LiveOptions, stack: ExitStack
) -> _Worker:
    """A worker that has taken the stream and is connected, until ``stack`` ends. Raises ApiError"""
    try:
        for may_be_lost in (True, False):
            worker = _hand_over(service, path, options)
            stack.callback(worker.let_go, service)
            try:
                await service.pool.wait_started(worker.ticket, service.limits.queue_seconds)
                await first_of(worker.link.accept(), worker.ticket.outcome)
                break
            except WorkerLost:
                # The client has heard nothing of this one, so another can take its place.
                if not may_be_lost:
                    raise
                worker.let_go(service)
    except TicketCancelled:
        raise ApiError("stopping", "the server is stopping; try again in a moment") from None
    return worker


def _hand_over(service: Service, path: Path, options: LiveOptions) -> _Worker:
    engine: Message = {}
    ticket = Ticket(
        "live",
        {"kind": "live", "socket": str(path), "options": options.model_dump()},
        on_event=lambda message: engine.update(message.get("engine", {})),
        stall_seconds=service.limits.stall_seconds,
    )
    link = WorkerLink(path)
    try:
        service.pool.submit(ticket)
    except BaseException:
        link.close()
        raise
    return _Worker(link, ticket, engine)


async def _while_there(client: _WebSocketClient, waiting: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``waiting``; a client that leaves meanwhile frees its place.

    Raises:
        ClientLeft: it left.
    """
    work = asyncio.ensure_future(waiting)
    leaving = asyncio.ensure_future(client.peek())
    try:
        while not work.done():
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                leaving.result()
                await work  # its first message is there and kept; now only the worker is awaited
        return work.result()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        client.keep(leaving)


def _hello(options: LiveOptions, engine: Message, limits: Limits) -> Message:
    width, height = options.answer_size
    names = ("max_live_pixels", "max_live_fps", "live_idle_seconds", "live_seconds")
    return {
        "type": "hello",
        "options": options.model_dump(),
        "frame_bytes": options.frame_bytes,
        "answer": {"width": width, "height": height, "header_bytes": HEADER_BYTES},
        "engine": {name: engine.get(name) for name in ("name", "model", "device")},
        "limits": {name: getattr(limits, name) for name in names},
    }


async def _close_with(websocket: WebSocket, client: _WebSocketClient, error: ApiError) -> None:
    websocket.scope["error_code"] = error.code
    code = GOING_AWAY if error.code == "stopping" else FIRST_CLOSE_CODE + error.status
    body = error_body(error, websocket.scope["request_id"])
    try:
        await client.send_message({"type": "error", **body})
        await websocket.close(code, error.code)
    except (ClientLeft, WebSocketDisconnect):
        return


class _WebSocketClient:
    """The client as a session sees it; one that takes nothing is hung up on by the server."""

    def __init__(self, websocket: WebSocket, limits: Limits) -> None:
        self._websocket = websocket
        self._limits = limits
        self._next: asyncio.Future[str | bytes] | None = None

    async def options(self) -> LiveOptions:
        """From the query or, without one, from the first message. Raises ApiError, ClientLeft."""
        query = dict(self._websocket.query_params)
        if query:
            return parse_options(query, self._limits)
        seconds = self._limits.header_seconds
        try:
            first = await asyncio.wait_for(self.receive(), seconds)
        except TimeoutError:
            message = "the options did not come in time; send them as the query or the first text"
            raise ApiError("too_slow", message, limit=seconds) from None
        if isinstance(first, bytes):
            raise ApiError("bad_request", "the first message must be the options, as JSON text")
        return parse_options(parse_message(first), self._limits)

    async def receive(self) -> str | bytes:
        """The next message. Raises ClientLeft."""
        if self._next is not None:
            kept, self._next = self._next, None
            return await kept
        return await self.peek()

    async def peek(self) -> str | bytes:
        """The next message, past any that was kept. Raises ClientLeft."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientLeft
        content: str | bytes | None = message.get("text")
        return bytes(message["bytes"]) if content is None else content

    def keep(self, message: asyncio.Future[str | bytes]) -> None:
        """Makes ``receive`` return this one first."""
        self._next = message

    async def forget(self) -> None:
        """Lets go of a message that was kept, or is still awaited."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    async def send_message(self, message: Message) -> None:
        """JSON as text. Raises ClientLeft."""
        await self._sent(self._websocket.send_json(message))

    async def send_frame(self, message: bytearray) -> None:
        """A binary message. Raises ClientLeft."""
        await self._sent(self._websocket.send({"type": "websocket.send", "bytes": message}))

    async def _sent(self, sending: Any) -> None:
        try:
            await sending
        except (WebSocketDisconnect, RuntimeError):  # Runtime: closed already
            raise ClientLeft from None
