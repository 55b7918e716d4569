"""Mischief beside ordinary requests: killed workers, cut uploads, readers that leave, silence."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil

from tests.server.live import LiveServer, kill_workers

PAUSE_SECONDS = 1.0
_SILENT = 20


@dataclass
class Chaos:
    """A thread that does one bad thing after another to a server until it is left."""

    server: LiveServer
    clip: bytes
    seed: int = 0
    done: dict[str, int] = field(default_factory=dict)
    """What was done, how often."""

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
        chance = random.Random(self.seed)
        acts = (self._kill_workers, self._cut_upload, self._leave_early, self._stay_silent)
        while not self._leave.wait(PAUSE_SECONDS * chance.uniform(0.5, 2)):
            act = chance.choice(acts)
            with suppress(OSError, psutil.NoSuchProcess, AssertionError):  # it was busy dying
                act()
                name = act.__name__.strip("_")
                self.done[name] = self.done.get(name, 0) + 1

    def _kill_workers(self) -> None:
        kill_workers(self.server.process.pid)

    def _connected(self) -> socket.socket:
        parts = urlsplit(self.server.url)
        return socket.create_connection((parts.hostname, parts.port or 80), 5)

    def _post(self, connection: socket.socket, body: bytes) -> None:
        head = f"POST /upscale HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(self.clip)}\r\n"
        connection.sendall(head.encode() + b"\r\n" + body)

    def _cut_upload(self) -> None:
        with self._connected() as connection:
            self._post(connection, self.clip[: len(self.clip) // 2])

    def _leave_early(self) -> None:
        with self._connected() as connection:
            self._post(connection, self.clip)
            connection.recv(1)

    def _stay_silent(self) -> None:
        connections = [self._connected() for _ in range(_SILENT)]
        self._leave.wait(PAUSE_SECONDS)
        for connection in connections:
            connection.close()
