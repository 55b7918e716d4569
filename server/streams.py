"""Answers that are files or pipes: sent as they come, stopped when the reader leaves or stalls."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError
from server.whole_numbers import whole_number
from server.workers.ticket import TicketCancelled

CHUNK_BYTES = 256 * 1024


class StreamResponse(Response):
    """Sends ``chunks`` while it watches the connection.

    Args:
        chunks: closed however the response ends.
        headers: sent before the first chunk is asked for.
        media_type: of the body.
        slow_reader_seconds: a reader that takes nothing for this long is cut off.
        on_wait: called with True before and False after waiting for the reader.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        headers: Mapping[str, str],
        media_type: str,
        *,
        slow_reader_seconds: float,
        status: int = 200,
        on_wait: Callable[[bool], None] = lambda _: None,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        if "Content-Length" not in headers:
            del self.headers["Content-Length"]
        self._chunks = chunks
        self._slow_reader_seconds = slow_reader_seconds
        self._on_wait = on_wait
        self.reader_has_left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything, or raises after the headers so that the end is abnormal."""
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                self.reader_has_left = True
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        async with contextlib.aclosing(self._chunks):  # type: ignore[type-var]
            await send(start)
            async for chunk in self._chunks:
                self._on_wait(True)
                body = {"type": "http.response.body", "body": chunk, "more_body": True}
                await self._send_in_time(send, body)
                self._on_wait(False)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_in_time(self, send: Send, body: Message) -> None:
        limit = self._slow_reader_seconds
        try:
            async with asyncio.timeout(limit):
                await send(body)
        except TimeoutError:
            raise ApiError(
                "too_slow", "the client read nothing for too long", limit=limit
            ) from None


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def file_chunks(
    path: Path, first: int = 0, last: int | None = None, *, delete: bool = False
) -> AsyncIterator[bytes]:
    """The bytes ``first`` to ``last`` (included; None is the end) of ``path``.

    With ``delete`` the name is gone as soon as the file is open.
    """
    with path.open("rb") as file:
        if delete:
            path.unlink()
        file.seek(first)
        left = None if last is None else last - first + 1
        while chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, left or CHUNK_BYTES)):
            yield chunk
            if left is not None:
                left -= len(chunk)
                if left == 0:
                    return


class ResultPipe:
    """A named pipe into which a worker writes a result while HTTP sends it on.

    The worker feels the reader's pace, and a broken pipe when it has left.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # Until a worker opens the pipe, reading it would look like its end.
        self._keeper = os.open(path, os.O_WRONLY)
        self._transport: asyncio.ReadTransport | None = None

    async def open(self) -> asyncio.StreamReader:
        """The reading end."""
        reader = asyncio.StreamReader(limit=CHUNK_BYTES)
        loop = asyncio.get_running_loop()
        file = os.fdopen(self._descriptor, "rb", buffering=0)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        return reader

    def let_end(self) -> None:
        """From now on the pipe ends when its last writer does: call it when the worker is done."""
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1

    def close(self) -> None:
        """Closes the reading end: a worker that still writes gets a broken pipe."""
        self.path.unlink(missing_ok=True)  # first: nobody opens a pipe that nobody reads
        self.let_end()
        if self._transport is None:
            os.close(self._descriptor)
        else:
            self._transport.close()


async def pipe_chunks(
    pipe: ResultPipe, reader: asyncio.StreamReader, outcome: asyncio.Future[Any]
) -> AsyncIterator[bytes]:
    """What a worker writes into ``pipe``, until ``outcome`` says that it is complete.

    Raises:
        ApiError: the worker failed, after everything it had written before.
    """

    def on_done(_: asyncio.Future[Any]) -> None:
        pipe.let_end()

    outcome.add_done_callback(on_done)
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            yield chunk
        try:
            await asyncio.shield(outcome)
        except TicketCancelled:
            raise ApiError("stopping", "the work was stopped before it was done") from None
    finally:
        outcome.remove_done_callback(on_done)


def asked_range(headers: Headers, size: int, etag: str | None) -> tuple[int, int] | None:
    """``single_range`` of a request; the whole where ``If-Range`` names something else."""
    if headers.get("if-range", etag) != etag:
        return None
    return single_range(headers.get("range"), size)


def single_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(first, last) of a ``Range`` with one part; None where the whole is to be sent.

    Several parts and other units are answered with the whole, as RFC 9110 allows.

    Raises:
        ApiError: 416 nothing of it exists.
    """
    if header is None or not header.startswith("bytes=") or "," in header:
        return None
    first_text, dash, last_text = header.removeprefix("bytes=").strip().partition("-")
    first_number, last_number = whole_number(first_text), whole_number(last_text)
    unknown = (first_text and first_number is None) or (last_text and last_number is None)
    if not dash or unknown:
        return None
    if first_number is not None:
        first = first_number
        last = size - 1 if last_number is None else min(last_number, size - 1)
    elif last_number is not None:
        first, last = max(0, size - last_number), size - 1
    else:
        return None
    if first >= size or (first > last and not (first_text and last_text)):
        raise ApiError(
            "bad_range",
            f"the file has {size} bytes",
            limit=size,
            actual=header[:100],
            headers={"Content-Range": f"bytes */{size}"},
        )
    return (first, last) if first <= last else None
