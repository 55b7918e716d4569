"""Finished jobs go when their time is over, whatever the disk says meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from server.errors import ApiError
from server.jobs import runner as module
from server.jobs.model import Job
from server.jobs.runner import JobRunner
from server.jobs.store import JobStore
from server.metrics import Metrics
from server.settings import Limits
from server.workers.pool import WorkerPool


class FullOnce(JobStore):
    """On a disk that has no room for the first deletion."""

    refused = False

    def delete(self, job_id: str) -> None:
        if not self.refused:
            self.refused = True
            raise ApiError("disk_full", "the disk is full; try again later")
        super().delete(job_id)


def finished(name: str) -> Job:
    return Job(
        id=name, owner="a", kind="job", state="queued", created_at=1.0, options={}, input_bytes=1
    )


def test_a_full_disk_ends_no_cleaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLEAN_EVERY_SECONDS", 0.0)
    jobs, store = tmp_path / "jobs", FullOnce(tmp_path / "jobs.sqlite3")
    for name in ("one", "two"):
        store.insert(finished(name))
        store.finish(name, state="done", finished_at=2.0)
        (jobs / name).mkdir(parents=True)

    async def clean() -> None:
        idle = cast(WorkerPool, SimpleNamespace(long_capacity=0))
        runner = JobRunner(store, jobs, idle, Limits(), Metrics())
        await runner.start()
        async with asyncio.timeout(90):
            while store.ids():
                await asyncio.sleep(0)
        await runner.stop()

    asyncio.run(clean())
    store.close()
    assert store.refused
    assert not list(jobs.iterdir())
