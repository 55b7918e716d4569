"""A client of the live mode: a WebSocket, and what tests ask of one."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.live.wire import HEADER_BYTES, AnswerHeader
from tests.server.live import LiveServer

Json = dict[str, Any]
END = json.dumps({"type": "end"})


def open_stream(server: LiveServer, query: str = "", **options: Any) -> ClientConnection:
    key = options.pop("key", "k-one")
    headers = {} if key is None else {"X-API-Key": key}
    url = server.url.replace("http", "ws") + f"/stream?{query}"
    headers.update(options.pop("headers", {}))
    return connect(url, additional_headers=headers, max_size=None, proxy=None, **options)


def send_all(stream: ClientConnection, *messages: str | bytes) -> None:
    """Sends as much as the server takes: it may have refused the first already."""
    with contextlib.suppress(ConnectionClosed):
        for message in messages:
            stream.send(message)


def hello(stream: ClientConnection) -> Json:
    while (message := json.loads(stream.recv(80)))["type"] == "waiting":
        pass
    assert message["type"] == "hello", message
    return message


def drain(stream: ClientConnection) -> tuple[list[tuple[AnswerHeader, bytes]], list[Json], int]:
    """(answers, texts, close code) of everything until the end."""
    answers, texts = [], []
    with contextlib.suppress(ConnectionClosed):
        while True:
            message = stream.recv(30)
            if isinstance(message, str):
                texts.append(json.loads(message))
            else:
                answers.append((AnswerHeader.unpack(message), message[HEADER_BYTES:]))
    code = stream.close_code
    assert code is not None
    return answers, texts, code


def first_answer(stream: ClientConnection) -> bytes:
    while isinstance(message := stream.recv(30), str):  # statistics may come before
        pass
    return message
