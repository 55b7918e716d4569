"""Servers for ``load.py``, each in a process of its own: ours, ours unisolated, and LitServe's."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Of the process that speaks HTTP, since it began."""
        times = self.process.cpu_times()
        return times.user + times.system

    def tree_cpu_seconds(self) -> float:
        """Of it, its workers and their children, also those that have ended."""
        return sum(_seconds(each) for each in [self.process, *_family(self.process)])


def _family(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # ended just now; its parent counts it
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


@asynccontextmanager
async def ours(data_dir: Path, queue: int, *, isolated: bool = True) -> AsyncIterator[Server]:
    """sr-server with the backend ``nearest``."""
    settings = {
        "SR_BACKEND": "nearest",
        "SR_CALIBRATE": "off",
        "SR_DATA_DIR": str(data_dir),
        "SR_PICTURE_QUEUE": str(queue),
        "SR_WORKERS": str(workers()),
        "SR_DISK_KEEP_BYTES": "0",
        "PYTHONPATH": str(ROOT),
    }
    program = ["-m", "server"] if isolated else [str(ROOT / "bench" / "load_unisolated.py")]
    command = [sys.executable, *program, "--port", "0"]
    async with _running(command, settings) as process:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        url = line.removeprefix("open ").strip()
        await _answering(f"{url}readyz", process)
        yield Server(url, psutil.Process(process.pid))


@asynccontextmanager
async def litserve(python: Path) -> AsyncIterator[Server]:
    """The same work behind LitServe."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = str(ROOT / "bench" / "load_litserve.py")
    command = [str(python), script, str(port), str(workers())]
    async with _running(command, {"PYTHONPATH": str(ROOT)}) as process:
        url = f"http://127.0.0.1:{port}/"
        await _answering(f"{url}health", process)
        yield Server(url, psutil.Process(process.pid))


def workers() -> int:
    """Engine workers of every server: one a core, at most four."""
    return max(2, min(4, os.cpu_count() or 1))


async def has_litserve(python: Path) -> bool:
    """Whether that Python can import it."""
    check = "import importlib.util, sys; sys.exit(importlib.util.find_spec('litserve') is None)"
    try:
        process = await asyncio.create_subprocess_exec(str(python), "-c", check)
    except OSError:
        return False
    return await process.wait() == 0


def litserve_body(picture: bytes) -> bytes:
    """The JSON that ``load_litserve.py`` takes."""
    import base64

    return json.dumps({"picture": base64.b64encode(picture).decode()}).encode()


@asynccontextmanager
async def _running(
    command: Sequence[str], settings: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SR_")}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**clean, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    family: list[psutil.Process] = []
    try:
        yield process
        family = _family(psutil.Process(process.pid))
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            process.kill()
            await process.wait()
        for left in family:  # LitServe may leave its workers behind
            if left.is_running():
                left.kill()


async def _answering(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while True:
            assert process.returncode is None, "the server ended while it started"
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
