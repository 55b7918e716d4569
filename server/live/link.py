"""A local socket between HTTP and the worker of one live stream; whole frames cross it.

It lies in the spool, which only this user can enter. Its path is named by way of the folder's
descriptor, because the address of a socket has at most 107 bytes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.closing import Closing
from server.live.window import Arrived
from server.live.wire import FRAME_LINK, HEADER_BYTES, RESULT_LINK


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """An address of the socket at ``path``, however long that is."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class Result:
    """What the worker made of a frame."""

    number: int
    message: bytearray
    """Room for the header of ``HEADER_BYTES``, then the pixels."""
    work_ms: float


class WorkerLink(Closing):
    """HTTP's end. Listens from the start; one worker connects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        try:
            with short_address(path) as address:
                self._listener.bind(address)
            self._listener.listen(1)
        except BaseException:
            self._listener.close()
            raise
        self._connection: socket.socket | None = None

    async def accept(self) -> None:
        """Waits for the worker."""
        self._connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)

    async def send(self, frame: Arrived) -> None:
        """Hands a frame over. Raises OSError when the worker is gone."""
        loop = asyncio.get_running_loop()
        header = FRAME_LINK.pack(frame.number, len(frame.payload))
        await loop.sock_sendall(self._open_connection, header)
        await loop.sock_sendall(self._open_connection, frame.payload)

    def send_end(self) -> None:
        """Tells the worker that there are no more frames; results still come."""
        self._open_connection.shutdown(socket.SHUT_WR)

    async def receive(self) -> Result | None:
        """The next result; None when the worker has ended its side."""
        header = bytearray(RESULT_LINK.size)
        if not await self._fill(memoryview(header)):
            return None
        number, length, work_ms = RESULT_LINK.unpack(header)
        message = bytearray(HEADER_BYTES + length)
        if not await self._fill(memoryview(message)[HEADER_BYTES:]):
            return None
        return Result(number, message, work_ms)

    async def _fill(self, view: memoryview) -> bool:
        loop = asyncio.get_running_loop()
        while view:
            try:
                count = await loop.sock_recv_into(self._open_connection, view)
            except ConnectionError:
                return False
            if count == 0:
                return False
            view = view[count:]
        return True

    @property
    def _open_connection(self) -> socket.socket:
        assert self._connection is not None, "accept comes first"
        return self._connection

    def close(self) -> None:
        """Hangs up and removes the socket's name."""
        self._listener.close()
        if self._connection is not None:
            self._connection.close()
        self.path.unlink(missing_ok=True)


class HttpLink(Closing):
    """The worker's end; plain blocking calls, reading and writing on one thread each."""

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_address(path) as address:
                self._connection.connect(address)
        except BaseException:
            self._connection.close()
            raise

    def receive(self) -> tuple[int, bytes] | None:
        """(number, payload) of the next frame; None when there are no more."""
        header = self._exactly(FRAME_LINK.size)
        if header is None:
            return None
        number, length = FRAME_LINK.unpack(header)
        payload = self._exactly(length)
        return None if payload is None else (number, bytes(payload))

    def _exactly(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._connection.recv_into(view)
            except OSError:
                return None
            if count == 0:
                return None
            view = view[count:]
        return data

    def send(self, number: int, pieces: list[memoryview], work_ms: float) -> None:
        """Sends a result, piece after piece. Raises OSError when nobody wants it any more."""
        length = sum(piece.nbytes for piece in pieces)
        self._connection.sendall(RESULT_LINK.pack(number, length, work_ms))
        for piece in pieces:
            self._connection.sendall(piece)

    def hang_up(self) -> None:
        """Ends both directions at once: whoever blocks in them returns."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other side was faster
            return

    def close(self) -> None:
        """Frees the socket."""
        self._connection.close()
