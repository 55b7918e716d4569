"""Streams that end early: nobody works for a client that has left, and a failure is told once."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from server.jobs.model import STOPPED_STREAM
from server.jobs.store import JobStore
from tests.reliability.figures import record
from tests.server.gate import Gate, gated_server
from tests.server.live import DEADLINE_SECONDS, wait_until
from tests.server.media.clips import Clip, write_clip

FRAMES = 400
LANES = 2
"""Frames that the engine has in flight; they may be finished after the client has left."""


@dataclass
class VideoGate(Gate):
    """A gate, and a video to send through it."""

    clip: bytes

    def post(self) -> socket.socket:
        """A client that has asked for a video and does not read yet."""
        url = httpx.URL(self.server.url)
        assert url.port is not None
        client = socket.create_connection((url.host, url.port), timeout=DEADLINE_SECONDS)
        size = len(self.clip)
        head = f"POST /upscale HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {size}\r\n\r\n"
        client.sendall(head.encode() + self.clip)
        return client

    def states(self) -> list[str]:
        """Of every video so far, the newest first."""
        with self.server.client() as client:
            return [job["state"] for job in client.get("/jobs").json()["jobs"]]


@contextmanager
def gated(folder: Path, at_frame: int, **given: str) -> Iterator[VideoGate]:
    clip = write_clip(folder / "clip", Clip(frames=FRAMES)).read_bytes()
    with gated_server(folder, at_frame, **given) as gate:
        yield VideoGate(gate.server, folder, clip)
        assert not list((gate.server.data_dir / "spool").iterdir())
        assert gate.server.stop() == 0


def test_leaving_before_the_first_byte_stops_the_work(tmp_path: Path) -> None:
    with gated(tmp_path, at_frame=5) as gate, gate.post() as client:
        gate.wait_reached()
        waiting = gate.post()
        wait_until(lambda: gate.states() == ["running", "running"], "a second video in the queue")
        waiting.close()
        wait_until(lambda: gate.states() == ["cancelled", "running"], "the second one cancelled")
        client.close()
        wait_until(lambda: gate.states() == ["cancelled", "cancelled"], "cancelled")
        made = gate.open(b"left")
        record("frames after leaving", made - 5)
        assert made <= 5 + LANES


def test_leaving_in_the_middle_stops_the_work(tmp_path: Path) -> None:
    with gated(tmp_path, at_frame=100) as gate, gate.post() as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        gate.wait_reached()
        client.close()
        wait_until(lambda: gate.states() == ["cancelled"], "cancelled")
        made = gate.open(b"left")
        record("frames after leaving", made - 100)
        assert made <= 100 + LANES


@pytest.mark.parametrize(("deaths", "status", "states"), [(1, 200, ["done"]), (2, 500, ["failed"])])
def test_a_worker_that_dies_before_the_first_byte_is_replaced_once(
    deaths: int, status: int, states: list[str], tmp_path: Path
) -> None:
    with gated(tmp_path, at_frame=5) as gate, gate.post() as client:
        for _ in range(deaths):
            gate.kill_worker()
        if status == 200:
            gate.wait_reached()
            assert gate.open() >= FRAMES
        answer = client.makefile("rb")
        head = answer.readline()
        wait_until(lambda: gate.states() == states, f"{states}")
        assert head.startswith(b"HTTP/1.1 %d" % status), (head, gate.server.log())
        client.shutdown(socket.SHUT_WR)
        body = answer.read()
    assert body.endswith(b"0\r\n\r\n") if status == 200 else b"engine_failed" in body


@pytest.mark.parametrize(
    ("fault", "code", "tracebacks"), [(b"fault", "engine_failed", 0), (b"bug", "internal", 1)]
)
def test_a_failure_after_the_200_ends_abnormally_and_is_logged_once(
    fault: bytes, code: str, tracebacks: int, tmp_path: Path
) -> None:
    with gated(tmp_path, at_frame=100) as gate, gate.post() as client:
        # Its first bytes come from an encoder that need not be as far as the engine.
        assert client.recv(12) == b"HTTP/1.1 200"
        gate.open(fault)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert not answer.endswith(b"0\r\n\r\n")  # the end of a whole chunked body
        wait_until(lambda: gate.states() == ["failed"], "failed")
        lines = [json.loads(line) for line in gate.server.log().splitlines()]
    told = [line for line in lines if line["event"] in ("cut_short", "request_failed")]
    assert [(line["event"], line["code"]) for line in told] == [("cut_short", code)]
    assert sum("Traceback" in json.dumps(line) for line in lines) == tracebacks


def test_a_stream_that_a_stop_cuts_off_has_failed_with_that_reason(tmp_path: Path) -> None:
    with gated(tmp_path, at_frame=100, SR_STOP_SECONDS="1") as gate, gate.post() as client:
        gate.wait_reached()
        assert client.recv(12) == b"HTTP/1.1 200"
        assert gate.server.stop() == 0
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                answer += data
        assert not answer.endswith(b"0\r\n\r\n")  # the end of a whole chunked body
    store = JobStore(gate.server.data_dir / "jobs.sqlite3")
    store.recover(0.0)  # as the next start does, should the row not have been written in time
    (video,) = store.newest("everybody", 9)
    store.close()
    assert video.state == "failed"
    assert video.error is not None
    assert (video.error["code"], video.error["message"]) == ("stopping", STOPPED_STREAM)
    log = gate.server.log()
    lines = [json.loads(line) for line in log.splitlines()]
    told = [line for line in lines if line["event"] in ("cut_short", "request_failed")]
    assert [(line["event"], line["code"]) for line in told] == [("cut_short", "stopping")]
    assert "Traceback" not in log
