"""One job on several workers gives what one worker gives, whatever happens to them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from engine.selection import open_backend
from engine.upscaler import Upscaler
from server.media.timing import merged
from server.segments import upscale_in_segments
from server.video_options import VideoOptions
from tests.server.live import LiveServer, live_server, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

SEGMENT_SECONDS = 0.3
CLIP = Clip(
    width=64,
    height=48,
    frames=60,
    time_base=Fraction(1, 90000),
    pts=[3600 * n + (n * 777) % 1500 + 900 for n in range(60)],
    options={"bf": "2", "g": "8"},
    audio=("aac",),
)
"""Variable frame rate, B-frames, sound, and a closed key frame every 8 frames."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "source", CLIP)


def alone(source: Path, backend: str) -> bytes:
    """What one worker makes of it."""
    folder, target = source.with_name("segments"), source.with_name("alone.mp4")
    folder.mkdir()
    model = "auto" if backend == "nearest" else "fast"
    with Upscaler(open_backend(backend, model, threads=1)) as upscaler:  # type: ignore[arg-type]
        options = VideoOptions(container="mp4")
        upscale_in_segments(
            source, target, folder, upscaler, options, segment_seconds=SEGMENT_SECONDS
        )
    return target.read_bytes()


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    settings = {
        "SR_BACKEND": request.param,
        "SR_MODEL": "auto" if request.param == "nearest" else "fast",
        "SR_WORKERS": "3",
        "SR_THREADS": "1",
        "SR_SEGMENT_SECONDS": str(SEGMENT_SECONDS),
    }
    with live_server(tmp_path / "data", **settings) as running:
        wait_ready(running)
        yield running


def job_state(client: httpx.Client, job_id: str) -> dict[str, Any]:
    state: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
    return state


def has_ended(client: httpx.Client, job_id: str) -> bool:
    return job_state(client, job_id)["state"] in ("done", "failed")


def kill_one_of_two(server: LiveServer) -> bool:
    """Kills a worker in the middle of a segment as soon as two are at one."""
    found = []
    for worker in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a child that has just ended
            commands = [" ".join(child.cmdline()) for child in worker.children()]
            if any("encode_child" in command for command in commands):
                found.append(worker)
    if len(found) == 2:
        found[0].kill()
    return len(found) == 2


@pytest.mark.parametrize("server", ["nearest", "onnxruntime"], indirect=True)
def test_several_workers_make_the_bytes_that_one_makes_even_if_one_is_killed(
    server: LiveServer, source: Path, request: pytest.FixtureRequest
) -> None:
    backend = request.node.callspec.params["server"]
    with server.client() as client:
        answer = client.post("/jobs?format=mp4", content=source.read_bytes())
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        wait_until(lambda: kill_one_of_two(server), "two workers at segments")
        wait_until(lambda: has_ended(client, job_id), "the job")
        job = job_state(client, job_id)
        assert job["state"] == "done", (job["error"], server.log())
        result = client.get(f"/jobs/{job_id}/result").content
    assert "worker_died" in server.log(), server.log()
    assert job["manifest"]["frames_in"] == job["manifest"]["frames_out"] == 60
    assert job["manifest"]["stages"]["upscale"]["p50_ms"] >= 0
    assert result == alone(source, backend)


@pytest.mark.parametrize("server", ["nearest"], indirect=True)
def test_a_split_job_can_be_cancelled_and_one_that_cannot_be_split_stays_whole(
    server: LiveServer, tmp_path: Path, source: Path
) -> None:
    whole = write_clip(tmp_path / "whole", replace(CLIP, options={"bf": "2", "g": "250"}))
    with server.client() as client:
        jobs = [
            client.post("/jobs", content=path.read_bytes()).json()["id"] for path in (source, whole)
        ]
        client.delete(f"/jobs/{jobs[0]}")
        assert client.get(f"/jobs/{jobs[0]}").status_code == 404
        wait_until(lambda: has_ended(client, jobs[1]), "the other job")
        kept = job_state(client, jobs[1])
        assert kept["state"] == "done", (kept["error"], server.log())
        assert kept["manifest"]["frames_out"] == 60
        states = client.get("/readyz").json()["workers"]
    assert states == ["idle"] * 3, json.dumps(states)


def test_times_of_segments_become_times_of_the_job() -> None:
    parts = [
        {"decode": {"p50_ms": 1.0, "p95_ms": 9.0}},
        {"decode": {"p50_ms": 3.0, "p95_ms": 4.0}, "write": {"p50_ms": 2.0, "p95_ms": 2.0}},
    ]
    assert merged(parts) == {
        "decode": {"p50_ms": 2.0, "p95_ms": 9.0},
        "write": {"p50_ms": 2.0, "p95_ms": 2.0},
    }
