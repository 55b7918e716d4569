"""Around every request: its id, the host and origin checks, strict headers, the log line, metrics.

Plain ASGI, so that a stream is passed on as it comes and an exception after the first byte reaches
uvicorn, which then ends the connection abnormally.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access import host_is_allowed, origin_is_ours
from server.errors import ApiError, error_response, stopping
from server.logs import AlreadyLogged, log_bug, log_event, request_id_variable
from server.metrics import Metrics
from server.settings import Settings

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # The page's webcam demo asks for the camera; nothing here needs anything else.
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
}
LINGER_SECONDS = 5.0
MOST_HEADER_BYTES, MOST_HEADERS = 16 * 1024, 100
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
"""Counted by name; a client may invent others without end."""
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
"""Probes: counted, but not logged when all is well."""


class RequestMiddleware:
    """Wraps ``app``; see the module.

    Args:
        app: the rest of the app.
        settings: which hosts are ours.
        metrics: counts the requests.
        refusal: why a request is not even routed, e.g. because the queue is full; under overload
            most are, and then this is all that they cost.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        refusal: Callable[[Scope], ApiError | None] = lambda _: None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._refuses = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope["request_id"] = secrets.token_hex(8)
        request_id_variable.set(scope["request_id"])
        exchange = _Exchange(scope, receive, send)
        try:
            refusal = self._refusal(Headers(scope=scope)) or self._refuses(scope)
            if refusal is not None:
                await self._refuse(refusal, scope, exchange)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # uvicorn's, when the time to finish after SIGTERM is over
            if scope["type"] == "http" and not exchange.status:
                exchange.give_body_up()
                await self._refuse(stopping(), scope, exchange)
            elif scope["type"] == "http":
                self._log_cut_short(stopping(), scope)
            raise
        except Exception as failure:  # the outermost edge of a request
            # After the 200 Starlette wraps what it has a handler for.
            error = failure.__cause__ if isinstance(failure.__cause__, ApiError) else failure
            if isinstance(error, ApiError):
                self._log_cut_short(error, scope)
            else:
                scope["error_code"] = "internal"
                log_bug("request_failed", path=scope.get("path"))
            if scope["type"] == "websocket" or exchange.status:
                raise AlreadyLogged from None
            bug = ApiError("internal", "the server failed at this; the log has the request's id")
            await self._refuse(bug, scope, exchange)
        finally:
            self._record(scope, exchange)

    def _refusal(self, headers: Headers) -> ApiError | None:
        # h11's own limit does not see headers that arrive in one piece.
        size = sum(len(name) + len(value) for name, value in headers.raw)
        if size > MOST_HEADER_BYTES or len(headers.raw) > MOST_HEADERS:
            return ApiError(
                "headers_too_large",
                f"the headers are larger than {MOST_HEADER_BYTES} bytes or more than "
                f"{MOST_HEADERS}",
                limit=MOST_HEADER_BYTES,
                actual=size,
            )
        host = headers.get("host", "")
        if not host_is_allowed(host, self._settings):
            return ApiError(
                "forbidden", "this server does not answer to that Host; see SR_ALLOWED_HOSTS"
            )
        if not origin_is_ours(headers.get("origin"), host):
            return ApiError("forbidden", "pages of another origin may not use this server")
        return None

    def _log_cut_short(self, error: ApiError, scope: Scope) -> None:
        scope["error_code"] = error.code
        log_event("cut_short", logging.WARNING, code=error.code, problem=error.message)

    async def _refuse(self, error: ApiError, scope: Scope, exchange: _Exchange) -> None:
        scope["error_code"] = error.code
        await error_response(error, scope["request_id"])(scope, exchange.receive, exchange.send)

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        route = scope.get("refused_route") or getattr(scope.get("route"), "path", "unknown")
        seconds = time.perf_counter() - exchange.began
        method = scope.get("method", "WS")
        method = method if method in _METHODS else "other"
        self._metrics.requests.labels(route, method, exchange.status or 499).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        code = scope.get("error_code")
        if code:
            self._metrics.errors.labels(code).inc()
        if route in _QUIET and exchange.status == 200:
            return
        log_event(
            "request",
            logging.INFO if exchange.status < 500 else logging.WARNING,
            route=route,
            method=method,
            status=exchange.status or 499,
            code=code,
            bytes_out=exchange.bytes_out,
            duration_ms=round(seconds * 1e3, 1),
        )


class _Exchange:
    """What went back on one request so far."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._body_is_read = scope.get("method", "GET") in ("GET", "HEAD", "DELETE")
        self._request_id = scope["request_id"]
        self.began = time.perf_counter()
        self.status = 0
        self.bytes_out = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):  # the end of the body, or a disconnect
            self._body_is_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(message)
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            if not message.get("more_body", False) and not self._body_is_read:
                await self._send({**message, "more_body": True})
                await self._discard_body()
                message = {"type": "http.response.body", "body": b""}
        elif message["type"] == "websocket.accept":
            self.status = 101
        elif message["type"] == "websocket.http.response.start":
            self.status = message["status"]
        await self._send(message)

    def give_body_up(self) -> None:
        """What is still to come of the body is not waited for when the answer ends."""
        self._body_is_read = True

    async def _discard_body(self) -> None:
        """Reads on after an early refusal: closing on unread bytes resets the connection, and the
        client would never see the answer. A client that still sends then gets the reset."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._body_is_read:
                    await self.receive()

    def _add_headers(self, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = self._request_id
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "no-store")
