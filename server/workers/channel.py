"""JSON lines over one end of a socket pair, for the side that works with threads."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

MAX_LINE_BYTES = 4 * 1024 * 1024
"""Longest message; a job's manifest is the largest."""

Message = dict[str, Any]


def encode_message(message: Message) -> bytes:
    """One message as it goes over the wire."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Channel:
    """The worker's end: ``send`` from any thread, ``messages`` from one.

    Args:
        connection: a connected stream socket, owned by the channel from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Sends one message. Raises OSError when the other side is gone."""
        with self._lock:
            self._connection.sendall(encode_message(message))

    def messages(self) -> Iterator[Message]:
        """The other side's messages, until it hangs up."""
        # A server that is killed before it has read all of ours leaves a reset and not an end.
        gone = contextlib.suppress(ConnectionError)
        with gone, self._connection.makefile("rb") as reader:
            for line in reader:
                yield json.loads(line)
