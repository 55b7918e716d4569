"""The service under more load than it can take: what is refused, how fast, and what is left over.

Starts a server with the ``nearest`` backend, so that the service itself is measured, keeps many
picture requests in flight against a short queue, and asks ``/livez`` all the while. Then holds
hundreds of sockets that never finish their headers and compares another client's p99 with before.
Ends with one line of JSON; exit code 1 when a promise was broken.

    python bench/load.py --seconds 120
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parents[1]
Headers = dict[str, str]
PICTURE = ROOT / "tests" / "data" / "pictures" / "skyline.png"

PROMISES = {
    "other_statuses": 0,
    "rejected_p99_ms": 100.0,
    "livez_p99_ms": 100.0,
    "loop_lag_max_ms": 250.0,
    "memory_mb_per_minute": 1.0,
    "descriptors_left": 0,
    "slow_headers_factor": 2.0,
}


@dataclass
class Measured:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    made_ms: list[float] = field(default_factory=list)
    rejected_ms: list[float] = field(default_factory=list)
    livez_ms: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, bytes) of the HTTP process."""


@asynccontextmanager
async def server(data_dir: str, queue: int) -> AsyncIterator[str]:
    """A server in a process of its own; yields its address."""
    settings = {
        "SR_BACKEND": "nearest",
        "SR_CALIBRATE": "off",
        "SR_DATA_DIR": data_dir,
        "SR_PICTURE_QUEUE": str(queue),
        "SR_DISK_KEEP_BYTES": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "--port", "0"),
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        url = line.removeprefix("open ").strip()
        async with httpx.AsyncClient(base_url=url) as client:
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
        yield url
    finally:
        process.terminate()
        await process.wait()


class Connection:
    """One keep-alive connection, as thin as possible: the clients must not be what is measured."""

    def __init__(self, url: str) -> None:
        self._address = httpx.URL(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Headers, bytes]:
        """(status, headers, body). Raises OSError or EOFError when there is no answer."""
        if self._streams is None:
            assert self._address.port is not None
            self._streams = await asyncio.open_connection(self._address.host, self._address.port)
        reader, writer = self._streams
        lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}")
        head = "\r\n".join((*lines, "", ""))
        writer.write(head.encode() + body)
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


async def ask_pictures(url: str, until: float, measured: Measured) -> None:
    body = PICTURE.read_bytes()
    async with connected(url) as connection:
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                status, headers, _ = await connection.ask("POST", "/upscale", body)
            except (OSError, EOFError) as error:
                measured.statuses[-1] += 1
                print(f"no answer: {error!r}", file=sys.stderr)
                connection.close()
                continue
            elapsed_ms = (time.perf_counter() - began) * 1e3
            measured.statuses[status] += 1
            if status == 200:
                measured.made_ms.append(elapsed_ms)
            elif status == 503 and "retry-after" in headers:
                measured.rejected_ms.append(elapsed_ms)
                await asyncio.sleep(0.5)  # a client that is told to come back does not storm


async def ask_livez(url: str, until: float, measured: Measured) -> None:
    began = time.monotonic()
    async with connected(url) as connection:
        while time.monotonic() < until:
            asked = time.perf_counter()
            status, _, _ = await connection.ask("GET", "/livez")
            assert status == 200
            measured.livez_ms.append((time.perf_counter() - asked) * 1e3)
            if len(measured.livez_ms) % 10 == 0:
                memory = await metric(connection, "process_resident_memory_bytes")
                measured.memory.append((time.monotonic() - began, memory))
            await asyncio.sleep(0.1)


async def metric(connection: Connection, name: str) -> float:
    _, _, text = await connection.ask("GET", "/metrics")
    match = re.search(rf"^{re.escape(name)} (\S+)$", text.decode(), re.MULTILINE)
    assert match is not None, name
    return float(match[1])


async def metric_of(url: str, name: str) -> float:
    async with connected(url) as connection:
        return await metric(connection, name)


async def ask_in_turn(url: str, count: int) -> list[float]:
    """Latencies of one quiet client."""
    body = PICTURE.read_bytes()
    times_ms = []
    async with connected(url) as connection:
        for _ in range(count):
            began = time.perf_counter()
            status, _, _ = await connection.ask("POST", "/upscale", body)
            assert status == 200
            times_ms.append((time.perf_counter() - began) * 1e3)
    return times_ms


async def with_slow_headers(url: str, sockets: int, count: int) -> list[float]:
    """The quiet client again, beside sockets that never finish their headers."""
    address = httpx.URL(url)
    assert address.port is not None
    opened = [await asyncio.open_connection(address.host, address.port) for _ in range(sockets)]
    for _, writer in opened:
        writer.write(b"GET /livez HTTP/1.1\r\nX-Half: ")
    try:
        return await ask_in_turn(url, count)
    finally:
        for _, writer in opened:
            writer.close()


def slope_mb_per_minute(memory: list[tuple[float, float]]) -> float | None:
    """Of the second half, when every pool has its size; None with too few samples to tell."""
    half = memory[len(memory) // 2 :]
    if len(half) < 3:
        return None
    seconds, sizes = np.array(half).T
    return round(float(np.polyfit(seconds, sizes, 1)[0] * 60 / 1e6), 2)


def p99(values: list[float]) -> float | None:
    return round(float(np.percentile(values, 99)), 1) if values else None


async def run(options: argparse.Namespace) -> dict[str, object]:
    measured = Measured()
    with tempfile.TemporaryDirectory() as data_dir:
        async with server(data_dir, options.queue) as url:
            quiet = await ask_in_turn(url, options.quiet)
            before = int(await metric_of(url, "process_open_fds"))
            until = time.monotonic() + options.seconds
            askers = [ask_pictures(url, until, measured) for _ in range(options.in_flight)]
            await asyncio.gather(ask_livez(url, until, measured), *askers)
            await asyncio.sleep(1)  # sockets that were closed on our side end on theirs
            after = int(await metric_of(url, "process_open_fds"))
            lag = await metric_of(url, 'sr_loop_lag_seconds{window="max"}')
            slow = await with_slow_headers(url, options.slow_sockets, options.quiet)
        left = len(list((Path(data_dir) / "spool").iterdir()))
    known = measured.statuses[200] + measured.statuses[503]
    return {
        "schema": 1,
        "seconds": options.seconds,
        "in_flight": options.in_flight,
        "queue": options.queue,
        "cpus": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 1),
        "made": measured.statuses[200],
        "made_per_second": round(measured.statuses[200] / options.seconds, 1),
        "made_p99_ms": p99(measured.made_ms),
        "rejected": measured.statuses[503],
        "rejected_p99_ms": p99(measured.rejected_ms),
        "other_statuses": sum(measured.statuses.values()) - known,
        "livez_p99_ms": p99(measured.livez_ms),
        "loop_lag_max_ms": round(lag * 1e3, 1),
        "memory_mb_per_minute": slope_mb_per_minute(measured.memory),
        "descriptors_left": max(0, after - before),
        "spool_files_left": left,
        "quiet_p99_ms": p99(quiet),
        "slow_headers_p99_ms": p99(slow),
        "slow_headers_factor": round((p99(slow) or 0) / (p99(quiet) or 1), 2),
        "command": " ".join(["python", "bench/load.py", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--in-flight", type=int, default=200)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--slow-sockets", type=int, default=500)
    parser.add_argument("--quiet", type=int, default=100, help="requests of the quiet client")
    result = asyncio.run(run(parser.parse_args()))
    broken = [
        f"{name} is {result[name]}, promised at most {most}"
        for name, most in PROMISES.items()
        if result[name] is not None and float(str(result[name])) > most
    ]
    for line in broken:
        print(line, file=sys.stderr)
    print(json.dumps({**result, "verdict": "broken" if broken else "kept"}))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
