"""A device that fails or lies costs a worker, never a wrong frame."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.backends.base import LaneSpec
from engine.errors import EngineFault
from engine.frames import Frame
from engine.guard import check_result
from engine.upscaler import Upscaler
from server.errors import ApiError
from server.media.ledger import file_sha256
from server.settings import Limits
from server.workers.pool import PoolOptions, WorkerPool
from server.workers.ticket import Ticket
from tests.reliability.faulty_backend import FAULTS, IN_PROCESS, Fault, FaultyBackend
from tests.reliability.figures import record
from tests.server.media.clips import Clip, pattern, write_clip

SPEC = LaneSpec(48, 64)
ROOT = Path(__file__).parents[2]
STALL_SECONDS = {"hang": 8.0}
"""Of a device that hangs; nothing else may run into it, however busy the machine is."""


def frames(count: int = 6) -> Iterator[Frame]:
    """Each as different from the one before as pictures that move are."""
    for index in range(count):
        yield np.roll(pattern(64, 48, index), 11 * index, axis=1)


@pytest.mark.parametrize("at_frame", [1, 4])
@pytest.mark.parametrize("fault", IN_PROCESS)
def test_a_wrong_result_surfaces_at_its_frame_and_the_ones_before_are_out(
    fault: Fault, at_frame: int
) -> None:
    done: list[Frame] = []
    with Upscaler(FaultyBackend(fault, at_frame)) as upscaler, pytest.raises(EngineFault):
        done.extend(upscaler.stream(frames(), SPEC))
    assert len(done) == at_frame
    for frame, result in zip(frames(), done, strict=False):
        check_result(frame, result)


def test_a_good_device_raises_no_alarm() -> None:
    with Upscaler(FaultyBackend("raise", 10_000)) as upscaler:
        good = sum(1 for _ in upscaler.stream(frames(200), SPEC))
    record("false alarms", f"{200 - good} of 200 frames")
    assert good == 200


CONFIG: dict[str, Any] = {
    "backend": "nearest",
    "model": "auto",
    "threads": 1,
    "cache_dir": None,
    "device": None,
    "segment_seconds": 0.1,
    "limits": Limits().model_dump(),
}


def job_folder(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir()
    clip = Clip(width=64, height=48, frames=10, options={"x264-params": "keyint=5"})
    write_clip(folder / "input", clip)
    return folder


def job_ticket(folder: Path, retries: int = 2, fault: Fault = "raise") -> Ticket:
    task = {"kind": "job", "folder": str(folder), "options": {"format": "mp4"}}
    return Ticket("job", task, stall_seconds=STALL_SECONDS.get(fault, 90), retries=retries)


async def run_jobs(
    fault: Fault, marker: Path, tickets: list[Ticket], expected_deaths: int = 0, at_frame: int = 6
) -> tuple[list[Any], int]:
    """The outcomes of ``tickets`` on workers that share one fault, and how many died."""
    deaths: list[float] = []
    command = (sys.executable, "-m", "tests.reliability.faulty_worker", fault)
    command += (str(at_frame), str(marker))
    options = PoolOptions(command=command, configs=[CONFIG, CONFIG])
    pool = WorkerPool(options, on_death=lambda: deaths.append(time.monotonic()))
    pool.start()
    try:
        for ticket in tickets:
            pool.submit(ticket)
        outcomes = [t.outcome for t in tickets]
        results = await asyncio.gather(*outcomes, return_exceptions=True)
        while len(deaths) < expected_deaths:  # the last ticket is told before the worker has ended
            await asyncio.sleep(0.01)
        return results, len(deaths)
    finally:
        await pool.stop()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the result that nothing disturbed."""
    root = tmp_path_factory.mktemp("clean")
    (root / "marker").touch()
    folder = job_folder(root, "job")

    async def test() -> Any:
        return await run_jobs("exit", root / "marker", [job_ticket(folder)])

    outcomes, deaths = asyncio.run(test())
    assert (outcomes[0]["frames"], deaths) == (10, 0)
    return file_sha256(folder / "result.mp4")


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_worker_and_the_result_is_that_of_a_clean_run(
    fault: Fault, tmp_path: Path, clean: str
) -> None:
    struck, other = job_folder(tmp_path, "a"), job_folder(tmp_path, "b")

    async def test() -> Any:
        tickets = [job_ticket(struck, fault=fault), job_ticket(other)]
        return await asyncio.wait_for(run_jobs(fault, tmp_path / "marker", tickets, 1), 100)

    outcomes, deaths = asyncio.run(test())
    assert (tmp_path / "marker").exists()
    assert deaths == 1
    for folder, outcome in zip((struck, other), outcomes, strict=True):
        assert outcome["frames"] == 10, outcome
        assert outcome["manifest"]["frames_in"] == outcome["manifest"]["frames_encoded"] == 10
        assert file_sha256(folder / "result.mp4") == clean


@pytest.mark.parametrize("fault", ["raise", "zeros"])
def test_no_worker_takes_work_before_its_canary_frame_is_right(
    fault: Fault, tmp_path: Path, clean: str
) -> None:
    folder = job_folder(tmp_path, "a")

    async def test() -> Any:
        tickets = [job_ticket(folder, retries=0)]  # lost if the sick worker takes it
        work = run_jobs(fault, tmp_path / "marker", tickets, 1, at_frame=0)
        return await asyncio.wait_for(work, 100)

    outcomes, deaths = asyncio.run(test())
    assert (outcomes[0]["frames"], deaths) == (10, 1)
    assert file_sha256(folder / "result.mp4") == clean


def test_a_device_that_always_lies_fails_the_job_with_the_reason(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "a")

    async def test() -> Any:
        return await asyncio.wait_for(run_jobs("zeros", Path("-"), [job_ticket(folder, 1)], 2), 100)

    outcomes, deaths = asyncio.run(test())
    assert isinstance(outcomes[0], ApiError)
    assert outcomes[0].code == "engine_failed"
    assert "does not resemble" in outcomes[0].message
    assert deaths == 2
    assert not (folder / "result.mp4").exists()
