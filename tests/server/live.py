"""A real ``sr-server`` in a process of its own, for tests of what a client meets."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 90.0


@dataclass
class LiveServer:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    key: str | None
    data_dir: Path

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE_SECONDS, trust_env=False, **options)  # type: ignore[arg-type]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def log(self) -> str:
        return (self.data_dir / "stderr.log").read_text()


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SR_")}
    defaults = {
        "SR_BACKEND": "nearest",
        "SR_CALIBRATE": "off",
        "SR_DATA_DIR": str(data_dir),
        "SR_WORKERS": "1",
        "SR_DISK_KEEP_BYTES": "0",
        "PYTHONPATH": str(ROOT),
    }
    return {**clean, **defaults, **settings}


@contextmanager
def live_server(
    data_dir: Path,
    *arguments: str,
    prefix: Sequence[str] = (),
    module: str = "server",
    **settings: str,
) -> Iterator[LiveServer]:
    """Starts a server on a free port and waits until it answers; kills it at the end.

    ``prefix`` is a command that runs it, ``module`` another one that starts it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "stderr.log").open("a") as stderr:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, "--port", "0", *arguments],
            env=environment(data_dir, **settings),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"open (http://.*:\d+/)(?:#key=(\S+))?\n", line)
        assert match, (line, (data_dir / "stderr.log").read_text())
        url = match[1].replace("0.0.0.0", "127.0.0.1")
        yield LiveServer(process, url.rstrip("/"), match[2], data_dir)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def lasting_port() -> int:
    """A free port below those that clients get: nobody takes it while its server starts again.

    From among theirs even the client that tries to connect could be given it.
    """
    for port in range(20_000 + os.getpid() % 8_000, 32_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Polls until ``condition`` holds; the only place where tests wait."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def wait_ready(server: LiveServer) -> None:
    with server.client() as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "ready")


def png(width: int = 16, height: int = 16, seed: int = 0) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(picture: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(picture)))


def workers_of(parent: int) -> list[psutil.Process]:
    """The engine workers of the server with this process id; also of ``gated_server``."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.Error):  # one that has just ended
            if not {"server.workers", "--worker"}.isdisjoint(child.cmdline()):
                found.append(child)
    return found


def kill_workers(parent: int) -> list[psutil.Process]:
    """Kills the engine workers of the server with this process id, and names them."""
    workers = workers_of(parent)
    assert workers
    for worker in workers:
        worker.kill()
    return workers


@contextmanager
def suspended_workers(server: LiveServer) -> Iterator[None]:
    """Nothing is made while the block runs: the workers take what they are given and stand still.

    The server must be ready: a worker that starts later is not suspended.
    """
    workers = workers_of(server.process.pid)
    assert workers
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.resume()
