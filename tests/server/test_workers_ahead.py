"""A worker is handed its next picture while it is at one, and nobody is worse off for it."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from server.errors import ApiError
from server.workers.pool import PoolOptions, WorkerPool
from server.workers.process import WorkerProcess
from server.workers.slot import Slot
from server.workers.ticket import Ticket, TicketCancelled

COMMAND = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
LONG = 1000.0
"""Seconds that no test waits for."""


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@asynccontextmanager
async def warm_pool(workers: int = 1, **options: Any) -> AsyncIterator[WorkerPool]:
    """A pool whose workers have all made a picture: one each, if it is the only worker."""
    options = {"ahead_seconds": LONG, **options}
    pool = WorkerPool(PoolOptions(command=COMMAND, configs=[{}] * workers, **options))
    pool.start()
    try:
        await until(lambda: all(slot.state == "idle" for slot in pool.slots))
        while not all(math.isfinite(slot.last_seconds) for slot in pool.slots):
            tickets = [echo() for _ in pool.slots]
            await asyncio.gather(*(pool.run(ticket, LONG) for ticket in tickets))
        yield pool
    finally:
        await pool.stop()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def echo(**limits: Any) -> Ticket:
    return Ticket("picture", {"kind": "echo", "say": 1}, **limits)


class Gates:
    """Pictures that take until the test opens their gate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []

    def ticket(self, kind: Any = "picture", **limits: Any) -> Ticket:
        path = self._folder / f"gate{len(self._paths)}"
        os.mkfifo(path)
        self._paths.append(path)
        return Ticket(kind, {"kind": "wait_for", "gate": str(path)}, **limits)

    async def open(self, index: int) -> None:
        await asyncio.to_thread(self._paths[index].write_bytes, b"go")


async def begin(pool: WorkerPool, *tickets: Ticket) -> None:
    """Submits them and waits until workers are at them."""
    for ticket in tickets:
        pool.submit(ticket)
    for ticket in tickets:
        await ticket.started.wait()


def holder(pool: WorkerPool, ticket: Ticket) -> Slot:
    return next(slot for slot in pool.slots if ticket in held(slot))


def held(slot: Slot) -> list[Ticket]:
    return [handed.ticket for handed in slot.ahead]


def test_a_busy_worker_holds_more_pictures_that_still_count_as_waiting(tmp_path: Path) -> None:
    async def test() -> None:
        gates = Gates(tmp_path)
        async with warm_pool(queue_limits={"picture": 2}) as pool:
            now = gates.ticket()
            await begin(pool, now)
            waiting = [echo(), echo()]
            for ticket in waiting:
                pool.submit(ticket)
            assert (held(pool.slots[0]), pool.queued("picture")) == (waiting, 2)
            with pytest.raises(ApiError) as full:
                pool.submit(echo())
            assert (full.value.code, full.value.actual) == ("queue_full", 2)
            assert not waiting[0].started.is_set()
            with pytest.raises(ApiError, match="no worker was free"):
                await pool.wait_started(waiting[0], 0.01)
            assert pool.queued("picture") == 1
            await gates.open(0)
            pid = (await now.outcome)["pid"]
            assert (await waiting[1].outcome)["pid"] == pid
            assert pool.queued("picture") == 0

    run(test)


def test_a_death_costs_the_picture_at_work_a_try_and_the_one_ahead_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        gates = Gates(tmp_path)
        async with warm_pool() as pool:
            now, ahead = gates.ticket(retries=0), echo(retries=0)
            await begin(pool, now)
            pool.submit(ahead)
            worker = holder(pool, ahead).worker
            assert worker is not None
            worker.kill()
            with pytest.raises(ApiError, match="died"):
                await now.outcome
            assert (await ahead.outcome)["pid"] != worker.pid
            assert pool.slots[0].exit_status == -signal.SIGKILL

    run(test)


def test_what_dies_is_tried_again_before_the_one_that_came_after_it(tmp_path: Path) -> None:
    async def test() -> None:
        heard: list[str] = []
        gates = Gates(tmp_path)
        async with warm_pool() as pool:
            first, second = gates.ticket(retries=1), echo()
            first.on_event = lambda _: heard.append("first")
            second.on_event = lambda _: heard.append("second")
            await begin(pool, first)
            pool.submit(second)
            worker = holder(pool, second).worker
            assert worker is not None
            await until(lambda: heard == ["first"])
            worker.kill()
            await until(lambda: len(heard) == 2)
            await gates.open(0)
            await asyncio.gather(first.outcome, second.outcome)
        assert heard == ["first", "first", "second"]

    run(test)


def test_a_caller_that_leaves_takes_its_picture_out_of_the_worker_s_hands() -> None:
    async def test() -> None:
        async with warm_pool() as pool:
            now, gone, next_one = Ticket("picture", {"kind": "obey"}), echo(), echo()
            await begin(pool, now)
            pool.submit(gone)
            slot = holder(pool, gone)
            pool.cancel(gone)
            with pytest.raises(TicketCancelled):
                await gone.outcome
            assert pool.queued("picture") == 0
            pool.submit(next_one)
            assert held(slot) == [gone, next_one]
            assert pool.queued("picture") == 1
            pool.cancel(now)  # the worker hears of it after it has heard that nobody wants ``gone``
            with pytest.raises(TicketCancelled):
                await now.outcome
            await next_one.outcome
            assert not gone.started.is_set()

    run(test)


def test_cancelling_the_picture_at_work_leaves_the_one_ahead_alone() -> None:
    async def test() -> None:
        async with warm_pool() as pool:
            now = Ticket("picture", {"kind": "obey"})
            ahead = Ticket("picture", {"kind": "check"})
            await begin(pool, now)
            pool.submit(ahead)
            holder(pool, ahead)
            pool.cancel(now)
            with pytest.raises(TicketCancelled):
                await now.outcome
            assert await ahead.outcome == {}
            assert pool.slots[0].failures == 0

    run(test)


def test_a_worker_with_nothing_to_do_takes_what_waits_in_another_s_hands(tmp_path: Path) -> None:
    async def test() -> None:
        gates = Gates(tmp_path)
        async with warm_pool(workers=2) as pool:
            busy = [gates.ticket(), gates.ticket()]
            await begin(pool, *busy)
            ahead = [echo() for _ in range(4)]
            pool.submit(ahead[0])
            assert not any(slot.ahead for slot in pool.slots)  # the first to be free takes it
            for number, ticket in enumerate(ahead[1:], 2):
                pool.submit(ticket)
                assert [len(slot.ahead) for slot in pool.slots] == [number // 2] * 2
            await gates.open(0)
            pid = (await busy[0].outcome)["pid"]
            for ticket in ahead:
                assert (await ticket.outcome)["pid"] == pid
            await gates.open(1)
            assert (await busy[1].outcome)["pid"] != pid

    run(test)


def test_a_picture_does_not_wait_for_a_long_one_while_others_are_short(tmp_path: Path) -> None:
    async def test() -> None:
        gates = Gates(tmp_path)
        async with warm_pool(workers=2, ahead_seconds=0.3) as pool:
            long, other = gates.ticket(), gates.ticket()
            await begin(pool, long, other)
            waiting = [echo() for _ in range(3)]
            for ticket in waiting:
                pool.submit(ticket)
            await until(lambda: not any(slot.ahead for slot in pool.slots))
            assert pool.queued("picture") == 3
            await gates.open(1)
            await asyncio.gather(other.outcome, *(ticket.outcome for ticket in waiting))
            assert not long.outcome.done()
            await gates.open(0)
            await long.outcome

    run(test)


@pytest.mark.parametrize("kind", ["video", "job", "live"])
def test_a_worker_at_something_long_gets_no_picture(kind: Any, tmp_path: Path) -> None:
    async def test() -> None:
        gates = Gates(tmp_path)
        async with warm_pool() as pool:
            await begin(pool, gates.ticket(kind))
            pool.submit(echo())
            assert (held(pool.slots[0]), pool.queued("picture")) == ([], 1)

    run(test)


def test_time_counts_from_when_the_work_begins() -> None:
    async def test() -> None:
        async with warm_pool() as pool:
            now = Ticket("picture", {"kind": "hang"}, total_seconds=2.1)
            ahead = echo(total_seconds=2.0)
            await begin(pool, now)
            pool.submit(ahead)
            holder(pool, ahead)
            with pytest.raises(ApiError) as late:
                await now.outcome
            assert late.value.code == "timed_out"
            assert (await ahead.outcome)["said"] == 1

    run(test)


def test_a_worker_that_is_replaced_after_this_picture_gets_no_other(tmp_path: Path) -> None:
    async def test() -> None:
        gates = Gates(tmp_path)
        async with warm_pool(recycle_tasks=3) as pool:
            before_last, last, other = gates.ticket(), gates.ticket(), echo()
            await begin(pool, before_last)
            pool.submit(last)
            pool.submit(other)
            assert held(pool.slots[0]) == [last]
            await gates.open(0)
            await last.started.wait()
            assert (held(pool.slots[0]), pool.queued("picture")) == ([], 1)
            await gates.open(1)
            assert (await other.outcome)["pid"] != (await last.outcome)["pid"]
            assert pool.slots[0].failures == 0

    run(test)


def test_a_pool_that_stops_tells_the_picture_ahead(tmp_path: Path) -> None:
    async def test() -> None:
        gates = Gates(tmp_path)
        ahead = echo()
        async with warm_pool() as pool:
            await begin(pool, gates.ticket())
            pool.submit(ahead)
            holder(pool, ahead)
        with pytest.raises(TicketCancelled):
            await ahead.outcome

    run(test)


def test_a_task_is_given_back_only_until_it_has_begun() -> None:
    async def test() -> None:
        worker = await WorkerProcess.start(COMMAND, {})
        try:
            await worker.wait_ready(lambda _: None)
            returned: list[int] = []
            begun = asyncio.Event()
            first = worker.give({"kind": "obey"})
            following = asyncio.create_task(
                worker.follow(first, lambda _: None, begun.set, returned.extend)
            )
            await begun.wait()
            gone = [worker.give({"kind": "echo", "say": "gone"}) for _ in range(2)]
            worker.take_back()
            last = worker.give({"kind": "echo", "say": "x4"})
            worker.cancel()
            assert (await following)["event"] == "cancelled"
            assert returned == gone
            assert (await worker.follow(last, lambda _: None))["result"]["said"] == "x4"
            worker.take_back()
            assert (await worker.run({"kind": "check"}, lambda _: None))["event"] == "done"
        finally:
            await worker.close()

    run(test)


def test_a_task_that_is_cancelled_before_it_begins_never_does() -> None:
    async def test() -> None:
        worker = await WorkerProcess.start(COMMAND, {})
        try:
            await worker.wait_ready(lambda _: None)
            numbers = [worker.give({"kind": kind}) for kind in ("obey", "hang", "check")]
            worker.cancel(numbers[1])
            worker.cancel(numbers[0])
            for number, event in zip(numbers, ["cancelled", "cancelled", "done"], strict=True):
                assert (await worker.follow(number, lambda _: None))["event"] == event
            assert worker.has_begun
        finally:
            await worker.close()

    run(test)


def test_every_picture_ends_once_whatever_dies_leaves_or_hangs(tmp_path: Path) -> None:
    """Hundreds of pictures, deaths and callers that leave, in an order that differs by seed."""
    draw = random.Random(4)

    async def one(pool: WorkerPool, number: int) -> str:
        fate = draw.choices(["echo", "die", "leave", "fail"], [20, 1, 4, 3])[0]
        kind = {"leave": "echo"}.get(fate, fate)
        task = {"kind": kind, "say": number, "marker": str(tmp_path / str(number))}
        ticket = Ticket("picture", task, retries=1)
        pool.submit(ticket)
        if fate == "leave":
            for _ in range(draw.randrange(6)):
                await asyncio.sleep(0)
            pool.cancel(ticket)
        try:
            result = await ticket.outcome
        except TicketCancelled:
            return f"{fate}: cancelled"
        except ApiError as error:
            return f"{fate}: {error.code}"
        assert result.get("said", number) == number
        return f"{fate}: done"

    async def test() -> None:
        async with warm_pool(workers=2, recycle_tasks=100, ahead_seconds=0.05) as pool:
            numbers = iter(range(400))

            async def caller() -> list[str]:
                return [await one(pool, number) for number in numbers]

            ends = Counter(chain(*await asyncio.gather(*(caller() for _ in range(8)))))
            assert ends.total() == 400
            late = {"leave: done"} & set(ends)  # it was done when its caller left
            assert set(ends) - late == {
                "echo: done",
                "die: done",
                "leave: cancelled",
                "fail: unusable_media",
            }
            assert pool.queued("picture") == 0
            await until(lambda: all(slot.state == "idle" for slot in pool.slots))
            assert not any(slot.ahead for slot in pool.slots)

    run(test)
