"""Mischief beside ordinary requests: killed workers, cut uploads, readers that leave, silence."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil

from tests.server.live import LiveServer

PAUSE_SECONDS = 1.0
CALM_SECONDS = 15.0
"""Between two kills: work that three workers in a row died of fails, and should."""
_SILENT = 20


class Chaos:
    """A thread that does one bad thing after another to a server while it is entered."""

    def __init__(self, server: LiveServer, clip: bytes, seed: int = 0) -> None:
        self.done: dict[str, int] = {}
        """What was done, how often."""
        self._server, self._clip = server, clip
        self._chance = random.Random(seed)
        self._killed_at = float("-inf")

    def __enter__(self) -> Self:
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos")
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave.set()
        self._thread.join()

    def _run(self) -> None:
        acts = (self._kill_worker, self._cut_upload, self._leave_early, self._stay_silent)
        while not self._leave.wait(PAUSE_SECONDS * self._chance.uniform(0.5, 2)):
            act = self._chance.choice(acts)
            with suppress(OSError, psutil.NoSuchProcess):  # the other side was busy dying
                act()

    def _note(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def _kill_worker(self) -> None:
        if time.monotonic() - self._killed_at < CALM_SECONDS:
            return
        children = psutil.Process(self._server.process.pid).children()
        workers = [child for child in children if "server.workers" in child.cmdline()]
        if workers:
            self._killed_at = time.monotonic()
            self._chance.choice(workers).kill()
            self._note("workers killed")

    def _connected(self) -> socket.socket:
        parts = urlsplit(self._server.url)
        return socket.create_connection((parts.hostname, parts.port or 80), 5)

    def _post(self, connection: socket.socket, body: bytes) -> None:
        head = f"POST /upscale HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(self._clip)}\r\n"
        connection.sendall(head.encode() + b"\r\n" + body)

    def _cut_upload(self) -> None:
        with self._connected() as connection:
            self._post(connection, self._clip[: len(self._clip) // 2])
        self._note("uploads cut")

    def _leave_early(self) -> None:
        with self._connected() as connection:
            self._post(connection, self._clip)
            connection.recv(1)
        self._note("readers left")

    def _stay_silent(self) -> None:
        connections = [self._connected() for _ in range(_SILENT)]
        self._leave.wait(PAUSE_SECONDS)
        for connection in connections:
            connection.close()
        self._note(f"times {_SILENT} silent sockets")
