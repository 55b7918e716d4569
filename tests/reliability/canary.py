"""Two witnesses: a server that hears every connection, a watch on a file that sees every look."""

from __future__ import annotations

import ctypes
import os
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

_IN_ACCESS, _IN_OPEN = 0x1, 0x20


@dataclass
class Canary:
    """A server on loopback."""

    port: int
    connections: int = 0
    paths: list[str] = field(default_factory=list)


@contextmanager
def canary_server() -> Iterator[Canary]:
    """Counts connections, whatever is said on them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            canary.paths.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    class Server(socketserver.ThreadingMixIn, HTTPServer):
        daemon_threads = True

        def verify_request(self, *_: object) -> bool:
            canary.connections += 1
            return True

    with Server(("127.0.0.1", 0), Handler) as server:
        canary = Canary(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield canary
        finally:
            server.shutdown()
            thread.join()


class FileWatch:
    """Counts how often a file was opened or read, by any process (inotify)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        added = libc.inotify_add_watch(self._descriptor, bytes(path), _IN_ACCESS | _IN_OPEN)
        assert self._descriptor >= 0, os.strerror(ctypes.get_errno())
        assert added >= 0, os.strerror(ctypes.get_errno())

    def looks(self) -> int:
        """Since the last call."""
        try:
            return len(os.read(self._descriptor, 1 << 16)) // 16
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._descriptor)
