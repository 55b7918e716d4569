"""Clients for ``load.py``: as thin as possible, because they share the machine with the server."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np

Headers = dict[str, str]
BACK_OFF_SECONDS = 0.5
"""A client that is told to come back does not storm. (``Retry-After`` says longer.)"""


@dataclass(frozen=True, slots=True)
class Request:
    """One POST, sent over and over."""

    path: str
    body: bytes
    content_type: str


@dataclass
class Measured:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    no_answers: int = 0
    made_ms: list[float] = field(default_factory=list)
    rejected_ms: list[float] = field(default_factory=list)
    livez_ms: list[float] = field(default_factory=list)
    client_lag_ms: list[float] = field(default_factory=list)
    """How late this process itself was: it is in every other time as well."""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, bytes) of the HTTP process."""


class Connection:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        self._address = httpx.URL(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> tuple[int, Headers, bytes]:
        """(status, headers, body). Raises OSError or EOFError when there is no answer."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    async def post(self, request: Request) -> tuple[int, Headers, bytes]:
        """As ``get``."""
        lines = (
            f"POST {request.path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Content-Type: {request.content_type}",
            f"Content-Length: {len(request.body)}",
        )
        return await self._ask("\r\n".join((*lines, "", "")).encode() + request.body)

    async def _ask(self, message: bytes) -> tuple[int, Headers, bytes]:
        if self._streams is None:
            assert self._address.port is not None
            self._streams = await asyncio.open_connection(self._address.host, self._address.port)
        reader, writer = self._streams
        writer.write(message)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in answer[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        content = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(answer[0].split()[1]), headers, content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = Connection(url)
    try:
        yield connection
    finally:
        connection.close()


async def ask_pictures(url: str, request: Request, until: float, measured: Measured) -> None:
    """One request after the other; a refused client waits a little."""
    async with connected(url) as connection:
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                status, headers, _ = await connection.post(request)
            except (OSError, EOFError) as error:
                measured.no_answers += 1
                print(f"no answer: {error!r}", file=sys.stderr)
                connection.close()
                continue
            elapsed_ms = (time.perf_counter() - began) * 1e3
            if status == 503 and "retry-after" not in headers:
                status = 0  # a refusal that does not say when to come back is none of ours
            measured.statuses[status] += 1
            if status == 200:
                measured.made_ms.append(elapsed_ms)
            elif status == 503:
                measured.rejected_ms.append(elapsed_ms)
                await asyncio.sleep(BACK_OFF_SECONDS)


async def ask_livez(url: str, until: float, measured: Measured) -> None:
    """Ten probes a second, and now and then a look at the memory."""
    began = time.monotonic()
    async with connected(url) as connection:
        while time.monotonic() < until:
            asked = time.perf_counter()
            status, _, _ = await connection.get("/livez")
            assert status == 200
            measured.livez_ms.append((time.perf_counter() - asked) * 1e3)
            if len(measured.livez_ms) % 10 == 0:
                memory = await metric(connection, "process_resident_memory_bytes")
                measured.memory.append((time.monotonic() - began, memory))
            await asyncio.sleep(0.1)


async def watch_own_lag(until: float, measured: Measured) -> None:
    """How late the clients' own event loop is."""
    while time.monotonic() < until:
        asked = time.perf_counter()
        await asyncio.sleep(0.05)
        measured.client_lag_ms.append((time.perf_counter() - asked - 0.05) * 1e3)


async def metric(connection: Connection, name: str) -> float:
    """One value out of ``/metrics``."""
    _, _, text = await connection.get("/metrics")
    match = re.search(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
    assert match is not None, name
    return float(match[1])


async def metric_of(url: str, name: str) -> float:
    """As ``metric``, over a connection of its own."""
    async with connected(url) as connection:
        return await metric(connection, name)


async def ask_in_turn(url: str, request: Request, count: int) -> list[float]:
    """Latencies of one quiet client."""
    times_ms = []
    async with connected(url) as connection:
        for _ in range(count):
            began = time.perf_counter()
            status, _, _ = await connection.post(request)
            assert status == 200
            times_ms.append((time.perf_counter() - began) * 1e3)
    return times_ms


@asynccontextmanager
async def slow_headers(url: str, sockets: int) -> AsyncIterator[None]:
    """That many sockets that never finish their headers."""
    address = httpx.URL(url)
    assert address.port is not None
    opened = [await asyncio.open_connection(address.host, address.port) for _ in range(sockets)]
    for _, writer in opened:
        writer.write(b"GET /livez HTTP/1.1\r\nX-Half: ")
    try:
        yield
    finally:
        for _, writer in opened:
            writer.close()


def slope_mb_per_minute(memory: list[tuple[float, float]]) -> float | None:
    """Of the second half, when every pool has its size; None with too few samples to tell."""
    half = memory[len(memory) // 2 :]
    if len(half) < 5:
        return None
    seconds, sizes = np.array(half).T
    return round(float(np.polyfit(seconds, sizes, 1)[0] * 60 / 1e6), 2)


def at_quarters(memory: list[tuple[float, float]]) -> list[float]:
    """MB at the start, the quarters and the end: whether a growth went on, or was one step."""
    sizes = [size / 1e6 for _, size in memory]
    return [round(sizes[part * (len(sizes) - 1) // 4], 2) for part in range(5)] if sizes else []


def percentile(values: list[float], share: float = 99) -> float | None:
    """Rounded to a tenth of a millisecond; None of nothing."""
    return round(float(np.percentile(values, share)), 1) if values else None
