"""Kills workers and servers under load, then counts what was lost, doubled or changed."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import httpx

from tests.server.live import LiveServer, kill_workers, live_server, wait_until
from tests.server.media.clips import Clip, write_clip

SETTINGS = {"SR_WORKERS": "2", "SR_SEGMENT_SECONDS": "0.2", "SR_JOBS_PER_KEY": "100"}
QUERIES = ("quality=1", "height=96")
FRAMES = 40
KINDS = ("worker", "server", "both")
"""What is killed, in turn."""


@dataclass
class KillReport:
    """What ``run_kills`` found for one kind of kill."""

    kills: int = 0
    jobs: int = 0
    lost: int = 0
    """Jobs that did not end as done."""
    frames_wrong: int = 0
    """Jobs with another number of frames or other times."""
    results_changed: int = 0
    """Jobs whose frames differ from the undisturbed run."""
    resumed: int = 0
    """Jobs that went on after finished segments."""
    recoveries_seconds: list[float] = field(default_factory=list)
    """From each kill until the service was ready again."""

    @property
    def recovery_p95_seconds(self) -> float:
        """The worst of few."""
        ordered = sorted(self.recoveries_seconds)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def run_kills(count: int, folder: Path, seed: int = 0) -> dict[str, KillReport]:
    """``count`` kills of the kinds in turn, at moments that ``seed`` chooses; a report for each.

    A job belongs to the kill that it was sent for; later kills may strike it, too.
    """
    chance, reports = random.Random(seed), {kind: KillReport() for kind in KINDS}
    clip = Clip(width=64, height=48, frames=FRAMES, options={"x264-params": "keyint=6"})
    body = write_clip(folder / "clip", clip).read_bytes()
    data = folder / "data"
    expected = _undisturbed(folder / "clean", body)
    sent: list[tuple[str, list[tuple[str, str]]]] = []
    with ExitStack() as running:
        server = _start(running, data)
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            jobs = _submit(server, body)
            sent.append((kind, jobs))
            _wait_for_progress(server, jobs, chance)
            began = time.monotonic()
            if kind != "server":
                kill_workers(server.process.pid)
            if kind != "worker":
                server.stop(signal.SIGKILL)
                running.close()
                server = _start(running, data)
            with server.client() as client:
                wait_until(lambda: client.get("/readyz").status_code == 200, "ready")
            reports[kind].recoveries_seconds.append(round(time.monotonic() - began, 2))
            reports[kind].kills += 1
        with server.client() as client:
            for kind, jobs in sent:
                for job_id, query in jobs:
                    _judge(client, job_id, expected[query], reports[kind])
    return reports


def _undisturbed(data: Path, body: bytes) -> dict[str, tuple[str, str]]:
    with live_server(data, **SETTINGS) as server, server.client() as client:
        jobs = _submit(server, body)
        return {query: _facts(client, _ended(client, job_id)) for job_id, query in jobs}


def _start(stack: ExitStack, data: Path) -> LiveServer:
    return stack.enter_context(live_server(data, **SETTINGS))


def _submit(server: LiveServer, body: bytes) -> list[tuple[str, str]]:
    with server.client() as client:
        answers = [(client.post(f"/jobs?{query}", content=body), query) for query in QUERIES]
    assert {answer.status_code for answer, _ in answers} == {202}
    return [(answer.json()["id"], query) for answer, query in answers]


def _wait_for_progress(
    server: LiveServer, jobs: list[tuple[str, str]], chance: random.Random
) -> None:
    """Until ``jobs`` together have a random number of frames."""
    wanted = chance.randrange(1, FRAMES * len(jobs) * 3 // 4)

    def reached() -> bool:
        with server.client() as client:
            states = [client.get(f"/jobs/{job_id}").json() for job_id, _ in jobs]
        return sum(job["frames"] or 0 for job in states) >= wanted

    wait_until(reached, "progress", 240)


def _ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    states = ("done", "failed", "cancelled")
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["state"] in states, "the end", 180)
    job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
    return job


def _facts(client: httpx.Client, job: dict[str, Any]) -> tuple[str, str]:
    content = client.get(f"/jobs/{job['id']}/result").content
    digest = hashlib.sha256()
    with av.open(io.BytesIO(content)) as opened:
        for frame in opened.decode(video=0):
            digest.update(frame.to_ndarray().tobytes())
    return job["manifest"]["pts_sha256"], digest.hexdigest()


def _judge(
    client: httpx.Client, job_id: str, expected: tuple[str, str], report: KillReport
) -> None:
    report.jobs += 1
    job = _ended(client, job_id)
    if job["state"] != "done":
        report.lost += 1
        return
    times, frames = _facts(client, job)
    report.frames_wrong += job["frames"] != FRAMES or times != expected[0]
    report.results_changed += frames != expected[1]
    report.resumed += "resumed after" in str(job["manifest"]["warnings"])
