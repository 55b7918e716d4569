"""The pool keeps its promises whatever its workers do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.errors import ApiError
from server.logs import LOGGER
from server.media.errors import Cancelled
from server.workers.channel import Channel
from server.workers.pool import LONG_TASK_WEIGHT, PoolOptions, WorkerPool
from server.workers.process import WorkerProcess
from server.workers.tasks import _fill_file
from server.workers.ticket import KINDS, Ticket, TicketCancelled, TicketKind
from server.workers.watchdog import watch

COMMAND = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
ENVIRONMENT_ROOT = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT_ROOT)


@asynccontextmanager
async def running_pool(workers: int = 1, **options: Any) -> AsyncIterator[WorkerPool]:
    configs = options.pop("configs", [{}] * workers)
    pool = WorkerPool(PoolOptions(command=COMMAND, configs=configs, **options))
    pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def make_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_a_task_reports_progress_and_returns_its_result() -> None:
    async def test() -> None:
        heard: list[dict[str, Any]] = []
        async with running_pool() as pool:
            ticket = Ticket("picture", {"kind": "echo", "say": "x4"}, on_event=heard.append)
            assert (await pool.run(ticket, 99))["said"] == "x4"
            assert ticket.engine["backend"] == "fake"
        assert heard == [{"seen": "x4", "event": "progress"}]

    run(test)


def test_a_failure_keeps_its_code_and_a_bug_tells_nothing() -> None:
    async def test() -> None:
        async with running_pool() as pool:
            with pytest.raises(ApiError) as failed:
                await pool.run(Ticket("picture", {"kind": "fail"}), 99)
            assert (failed.value.status, failed.value.limit, failed.value.actual) == (422, 1, 2)
            with pytest.raises(ApiError) as bug:
                await pool.run(Ticket("picture", {"kind": "bug"}), 99)
            assert bug.value.status == 500
            assert "secret" not in bug.value.message
            again = await pool.run(Ticket("picture", {"kind": "echo", "say": 1}), 99)
            assert again["said"] == 1

    run(test)


def test_a_death_retries_only_its_own_ticket(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_pool(workers=2) as pool:
            await until(lambda: all(slot.state == "idle" for slot in pool.slots))
            gate = make_fifo(tmp_path / "gate")
            other = asyncio.create_task(
                pool.run(Ticket("picture", {"kind": "wait_for", "gate": str(gate)}), 99)
            )
            marker = str(tmp_path / "marker")
            ticket = Ticket("picture", {"kind": "die", "marker": marker}, retries=1)
            assert await pool.run(ticket, 99) == {"survived": True}
            await asyncio.to_thread(gate.write_bytes, b"go")
            assert "pid" in await other

    run(test)


def test_a_ticket_that_always_kills_fails_and_the_pool_lives(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_pool() as pool:
            task = {"kind": "die", "marker": str(tmp_path / "m"), "always": True}
            with pytest.raises(ApiError, match="died") as failed:
                await pool.run(Ticket("picture", task, retries=1), 99)
            assert failed.value.status == 500
            assert (await pool.run(Ticket("picture", {"kind": "echo", "say": 2}), 99))["said"] == 2

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_whose_worker_is_dead_before_it_begins_goes_to_another(
    kind: TicketKind, tmp_path: Path
) -> None:
    async def test() -> None:
        markers = [str(tmp_path / f"{number}") for number in range(2)]
        configs = [{"dies_before_it_begins": marker} for marker in markers]
        async with running_pool(configs=configs) as pool:
            await until(lambda: all(slot.state == "idle" for slot in pool.slots))
            ticket = Ticket(kind, {"kind": "echo", "say": "x4"}, retries=0)
            assert (await pool.run(ticket, 99))["said"] == "x4"
            assert sum(slot.exit_status == -signal.SIGKILL for slot in pool.slots) >= 1
            assert ticket.retries == 0

    run(test)


def test_a_task_that_finds_only_dead_workers_ends_in_time_and_can_be_cancelled(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        config = {"dies_before_it_begins": str(tmp_path / "m"), "always": True}
        async with running_pool(configs=[config]) as pool:
            ticket = Ticket("picture", {"kind": "echo", "say": 1})
            with pytest.raises(ApiError) as late:
                await pool.run(ticket, 0.5)
            assert (late.value.status, late.value.code) == (503, "queue_full")
            with pytest.raises(TicketCancelled):
                await ticket.outcome
            waiting = Ticket("video", {"kind": "echo", "say": 1})
            pool.submit(waiting)
            await until(lambda: pool.slots[0].state == "restarting")
            assert not waiting.started.is_set()
        with pytest.raises(TicketCancelled):  # the pool has stopped
            await waiting.outcome

    run(test)


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    async def test() -> None:
        async with running_pool() as pool:
            first = await pool.run(Ticket("picture", {"kind": "echo", "say": 1}), 99)
            os.kill(first["pid"], signal.SIGKILL)
            await until(lambda: pool.slots[0].state == "restarting")
            second = await pool.run(Ticket("picture", {"kind": "echo", "say": 1}), 99)
            assert second["pid"] != first["pid"]

    run(test)


@pytest.mark.parametrize("limit", [{"total_seconds": 0.2}, {"stall_seconds": 0.2}])
def test_a_task_that_hangs_is_killed_in_time(limit: dict[str, float]) -> None:
    async def test() -> None:
        async with running_pool() as pool:
            with pytest.raises(ApiError) as late:
                await pool.run(Ticket("picture", {"kind": "hang"}, retries=1, **limit), 99)
            assert late.value.status == 504

    run(test)


def test_a_caller_that_leaves_cancels_its_task_and_frees_the_worker() -> None:
    async def test() -> None:
        async with running_pool() as pool:
            working = asyncio.Event()
            ticket = Ticket("video", {"kind": "obey"}, on_event=lambda _: working.set())
            caller = asyncio.create_task(pool.run(ticket, 99))
            await working.wait()
            caller.cancel()
            with pytest.raises(TicketCancelled):
                await ticket.outcome
            assert (await pool.run(Ticket("picture", {"kind": "echo", "say": 3}), 99))["said"] == 3
            assert pool.slots[0].failures == 0  # asked, not killed

    run(test)


def test_a_task_that_trips_over_what_its_caller_took_away_is_cancelled_and_no_bug(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(LOGGER), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger(LOGGER), "propagate", False)

    async def test() -> None:
        async with running_pool() as pool:
            working = asyncio.Event()
            ticket = Ticket("picture", {"kind": "trip"}, on_event=lambda _: working.set())
            pool.submit(ticket)
            await working.wait()
            pool.cancel(ticket)
            with pytest.raises(TicketCancelled):
                await ticket.outcome
            with pytest.raises(ApiError):
                await pool.run(Ticket("picture", {"kind": "bug"}), 99)

    run(test)
    bugs = [record.__dict__["fields"] for record in caplog.records if record.msg == "task_bug"]
    assert [bug["task"] for bug in bugs] == ["bug"]
    assert "RuntimeError: secret detail" in bugs[0]["traceback"]


def test_a_result_is_not_left_behind_when_its_caller_has_gone(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        _fill_file(tmp_path / "result", b"late")
    assert not list(tmp_path.iterdir())
    (tmp_path / "result").write_bytes(b"what a worker that died had written")
    _fill_file(tmp_path / "result", b"whole")
    assert (tmp_path / "result").read_bytes() == b"whole"


def test_the_queue_is_bounded_and_a_ticket_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_pool(queue_limits={"picture": 1}) as pool:
            await until(lambda: pool.is_ready)
            gate = make_fifo(tmp_path / "gate")
            busy = Ticket("picture", {"kind": "wait_for", "gate": str(gate)})
            pool.submit(busy)
            await busy.started.wait()
            waiting = Ticket("picture", {"kind": "echo", "say": 1})
            pool.submit(waiting)
            with pytest.raises(ApiError) as full:
                pool.submit(Ticket("picture", {"kind": "echo", "say": 2}))
            assert (full.value.status, full.value.limit, full.value.actual) == (503, 1, 1)
            assert "Retry-After" in full.value.headers
            pool.cancel(waiting)
            with pytest.raises(ApiError) as late:
                await pool.run(Ticket("picture", {"kind": "echo", "say": 4}), 0.05)
            assert late.value.status == 503
            await asyncio.to_thread(gate.write_bytes, b"go")
            await busy.outcome

    run(test)


def test_long_work_leaves_a_worker_for_pictures() -> None:
    async def test() -> None:
        async with running_pool(workers=2) as pool:
            await until(lambda: all(slot.state == "idle" for slot in pool.slots))
            jobs = [Ticket("job", {"kind": "obey"}) for _ in range(2)]
            for job in jobs:
                pool.submit(job)
            await jobs[0].started.wait()
            assert (await pool.run(Ticket("picture", {"kind": "echo", "say": 5}), 99))["said"] == 5
            assert not jobs[1].started.is_set()
            pool.cancel(jobs[0])
            await jobs[1].started.wait()

    run(test)


def test_a_worker_is_replaced_after_its_share_of_tasks() -> None:
    async def test() -> None:
        async with running_pool(recycle_tasks=2) as pool:
            pids = [
                (await pool.run(Ticket("picture", {"kind": "echo", "say": n}), 99))["pid"]
                for n in range(4)
            ]
            assert pids[0] == pids[1] != pids[2] == pids[3]
            assert pool.slots[0].failures == 0

    run(test)


def test_an_engine_that_cannot_run_here_is_not_tried_for_ever() -> None:
    async def test() -> None:
        async with running_pool(configs=[{"unusable": True}]) as pool:
            await until(lambda: pool.problem is not None)
            assert pool.problem == "there is no such engine here"
            assert not pool.is_ready

    run(test)


def test_a_worker_that_dies_at_start_is_tried_again_with_back_off() -> None:
    async def test() -> None:
        async with running_pool(configs=[{"dies_at_start": True}]) as pool:
            await until(lambda: pool.slots[0].failures >= 2)
            assert not pool.is_ready

    run(test)


def test_a_cancel_that_comes_too_late_does_not_end_the_next_task() -> None:
    async def test() -> None:
        worker = await WorkerProcess.start(COMMAND, {})
        try:
            await worker.wait_ready(lambda _: None)
            for _ in range(3):
                await worker.run({"kind": "echo", "say": 1}, lambda _: None)
                worker.cancel()
                assert (await worker.run({"kind": "check"}, lambda _: None))["event"] == "done"
        finally:
            await worker.close()

    run(test)


def test_a_ticket_that_is_cancelled_as_it_ends_leaves_its_worker_alone() -> None:
    class Untouched(WorkerProcess):
        def __init__(self) -> None:
            pass  # nothing of it may be used

    async def test() -> None:
        ticket = Ticket("picture", {})
        now = asyncio.get_running_loop().time()
        watchdog = asyncio.create_task(watch(Untouched(), ticket, now))
        await asyncio.sleep(0)
        ticket.cancel_requested.set()
        await asyncio.sleep(0)  # its wait is over, but it does not know yet
        watchdog.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watchdog

    run(test)


def test_no_process_outlives_the_pool() -> None:
    async def test() -> None:
        async with running_pool(workers=2) as pool:
            await until(lambda: all(slot.state == "idle" for slot in pool.slots))
            pids = [slot.worker.pid for slot in pool.slots if slot.worker]
        assert len(pids) == 2
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    run(test)


def test_a_long_task_wears_a_worker_out_as_many_pictures_do() -> None:
    async def test() -> None:
        async with running_pool(recycle_tasks=LONG_TASK_WEIGHT + 1) as pool:
            pids = [
                (await pool.run(Ticket(kind, {"kind": "echo", "say": 1}), 99))["pid"]
                for kind in ("video", "picture", "picture")
            ]
            assert pids[0] == pids[1] != pids[2]

    run(test)


def test_workers_that_are_worn_out_are_replaced_one_after_the_other() -> None:
    async def test() -> None:
        ups: list[int] = []

        def on_change() -> None:
            ups.append(sum(slot.is_up for slot in pool.slots))

        pool = WorkerPool(
            PoolOptions(command=COMMAND, configs=[{}] * 2, recycle_tasks=1), on_change
        )
        pool.start()
        try:
            await until(lambda: all(slot.is_up for slot in pool.slots))
            ups.clear()
            pids = set()
            while len(pids) < 4:
                ticket = Ticket("picture", {"kind": "echo", "say": 1})
                pids.add((await pool.run(ticket, 99))["pid"])
            assert 0 not in ups
        finally:
            await pool.stop()

    run(test)


def test_a_server_that_was_killed_before_it_read_all_has_hung_up() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    channel.send({"event": "begun"})
    ours.sendall(b'{"event":"cancel"}\n')
    messages = channel.messages()
    assert next(messages) == {"event": "cancel"}
    ours.close()
    assert list(messages) == []
    theirs.close()
