"""A server whose engine stands still before a frame until a test lets it go on: nothing is late."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.server.live import LiveServer, live_server, wait_ready, wait_until, workers_of


@dataclass
class Gate:
    """A server with one worker; see ``tests.server.gated_server`` for what its engine does."""

    server: LiveServer
    folder: Path

    def wait_reached(self) -> None:
        wait_until((self.folder / "reached").exists, "the gate")

    def kill_worker(self) -> None:
        """While it stands at the gate; the next one will come there, too."""
        self.wait_reached()
        (self.folder / "reached").unlink()
        (worker,) = workers_of(self.server.process.pid)
        worker.kill()

    def tell(self, said: bytes = b"") -> None:
        """Lets the engine go on, or fail."""
        self.wait_reached()
        (self.folder / "gate").write_bytes(said)

    def open(self, said: bytes = b"") -> int:
        """As ``tell``; returns how many frames the engine made until it was idle."""
        self.tell(said)
        with self.server.client() as client:
            wait_until(lambda: client.get("/readyz").json()["workers"] == ["idle"], "idle")
        return int((self.folder / "frames").read_text())


@contextmanager
def gated_server(folder: Path, at_frame: int, **given: str) -> Iterator[Gate]:
    """One with a gate in ``folder`` before frame ``at_frame`` of each worker; ready, and killed at
    the end."""
    os.mkfifo(folder / "gate")
    arguments = (str(at_frame), str(folder))
    # Long enough for the next worker to start on a busy machine.
    settings = {"SR_QUEUE_SECONDS": "80", **given}
    module = "tests.server.gated_server"
    with live_server(folder / "data", *arguments, module=module, **settings) as server:
        wait_ready(server)
        yield Gate(server, folder)
