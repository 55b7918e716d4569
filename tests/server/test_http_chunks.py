"""Chunks: as many as an upload needs, but not so many that nobody else is heard."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn

from server.http_server import MAX_SMALL_CHUNKS, RECEIVE_BYTES, protocol_class

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
SMALL = b"1\r\nx\r\n"
LARGE = b"2000\r\n" + b"\xa5" * 8192 + b"\r\n"


async def count_body(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the number of bytes that came."""
    size, is_open = 0, True
    while is_open:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, is_open = size + len(message["body"]), message["more_body"]
    headers = [(b"content-length", b"%d" % len(str(size)))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def answer_to(body: bytes) -> bytes:
    """What a server with our protocol says to a chunked ``body``; empty when it hangs up."""
    config = uvicorn.Config(
        count_body, port=0, http=protocol_class(30), log_config=None, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HEAD)
        for start in range(0, len(body), RECEIVE_BYTES):
            writer.write(body[start : start + RECEIVE_BYTES])
            await writer.drain()
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("body", "size"), [(SMALL * 5000, 5000), (LARGE * 1000, 8192 * 1000), (LARGE + SMALL, 8193)]
)
def test_an_ordinary_chunked_body_arrives(body: bytes, size: int) -> None:
    assert asyncio.run(answer_to(body + END)).endswith(b"\r\n\r\n%d" % size)


def test_a_million_chunks_of_one_byte_end_the_connection() -> None:
    assert 2 * MAX_SMALL_CHUNKS < 1_000_000
    assert asyncio.run(answer_to(SMALL * 1_000_000 + END)) == b""
