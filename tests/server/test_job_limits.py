"""Limits of new jobs: at most as many as may wait, and as much as fits, however they come."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from server.jobs.model import Job
from server.jobs.view import job_view
from tests.server.test_limits import CLIP, HANGING, app, check, job, refusal, until


@pytest.mark.parametrize(("unfinished", "is_taken"), [(0, True), (1, True), (2, False), (3, False)])
@pytest.mark.parametrize(
    ("limit", "status", "code"),
    [("job_queue", 503, "queue_full"), ("jobs_per_key", 429, "too_many_jobs")],
)
def test_unfinished_jobs_are_counted(
    tmp_path: Path, limit: str, status: int, code: str, unfinished: int, is_taken: bool
) -> None:
    async def test() -> None:
        async with app(tmp_path, **{limit: 2}) as (client, service):
            for number in range(unfinished):
                service.store.insert(job(id=str(number)))
            service.store.insert(job(id="done", state="done"))
            answer = await client.post("/jobs", content=CLIP)
            if is_taken:
                assert answer.status_code == 202
            else:
                error = refusal(answer, status, code)
                assert (error["limit"], error["actual"]) == (2, unfinished)
            assert len(list(service.jobs_root.iterdir())) == is_taken

    check(test)


def test_a_job_that_is_deleted_makes_room(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, jobs_per_key=1, job_queue=1) as (client, _):
            first = (await client.post("/jobs", content=CLIP)).json()["id"]
            refusal(await client.post("/jobs", content=CLIP), 503, "queue_full")
            assert (await client.delete(f"/jobs/{first}")).status_code == 204
            assert (await client.post("/jobs", content=CLIP)).status_code == 202

    check(test)


@pytest.mark.parametrize(
    ("limit", "value", "status"),
    [
        ("job_queue", 1, 503),
        ("jobs_per_key", 1, 429),
        ("jobs_per_hour", 1, 429),
        ("disk_quota_bytes", len(CLIP), 507),
    ],
)
def test_a_job_that_is_sent_again_with_its_key_is_no_new_one(
    tmp_path: Path, limit: str, value: int, status: int
) -> None:
    async def test() -> None:
        async with app(tmp_path, keyed=True, **{limit: value}) as (client, service):
            key = {"Idempotency-Key": "k"}
            made = [await client.post("/jobs", content=CLIP, headers=key) for _ in range(3)]
            assert [answer.status_code for answer in made] == [202] * 3, made[-1].text
            assert len({answer.json()["id"] for answer in made}) == 1
            other = await client.post("/jobs", content=CLIP + b".", headers=key)
            refusal(other, 422, "idempotency_mismatch")
            assert (await client.post("/jobs", content=CLIP)).status_code == status
            assert len(list(service.jobs_root.iterdir())) == 1

    check(test)


def test_new_jobs_an_hour_are_counted_for_each_key(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, keyed=True, jobs_per_hour=2) as (client, _):
            for _ in range(2):
                assert (await client.post("/jobs", content=CLIP)).status_code == 202
            dry = await client.post("/jobs?dry_run=1", content=b"")
            refusal(dry, 400, "bad_request")  # estimates are not counted
            answer = await client.post("/jobs", content=CLIP)
            assert refusal(answer, 429, "rate_limited")["limit"] == 2
            assert 1700 <= int(answer.headers["Retry-After"]) <= 1800

    check(test)


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body whose length no header tells."""
    yield body


@pytest.mark.parametrize(("stored", "status"), [(99, 202), (100, 202), (101, 507)])
@pytest.mark.parametrize("announced", [True, False])
def test_the_share_of_the_disk_of_one_caller(
    tmp_path: Path, stored: int, status: int, announced: bool
) -> None:
    async def test() -> None:
        async with app(tmp_path, disk_quota_bytes=100 + len(CLIP)) as (client, service):
            service.store.insert(job(state="done", input_bytes=60, result_bytes=stored - 60))
            content = CLIP if announced else in_pieces(CLIP)
            answer = await client.post("/jobs", content=content)
            assert answer.status_code == status
            if status == 507:
                assert refusal(answer, 507, "disk_full")["actual"] == stored + len(CLIP)
            assert len(list(service.jobs_root.iterdir())) == (status == 202)

    check(test)


class Slow:
    """A body of which the first bytes come, and the rest when the test says so."""

    def __init__(self) -> None:
        self.began, self.may_end = asyncio.Event(), asyncio.Event()

    async def send(
        self, client: httpx.AsyncClient, *, announced: int | None = None, **headers: str
    ) -> asyncio.Task[httpx.Response]:
        """Returns when the first bytes are asked for, so that a place is reserved."""
        if announced is not None:
            headers["Content-Length"] = str(announced)
        post = client.post("/jobs", content=self._pieces(), headers=headers)
        sending = asyncio.create_task(post)
        await self.began.wait()
        return sending

    async def _pieces(self) -> AsyncIterator[bytes]:
        self.began.set()
        yield CLIP[:20]
        await self.may_end.wait()
        yield CLIP[20:]


@pytest.mark.parametrize(
    ("limit", "value", "status", "code"),
    [
        ("job_queue", 1, 503, "queue_full"),
        ("jobs_per_key", 1, 429, "too_many_jobs"),
        ("disk_quota_bytes", 2 * len(CLIP) - 1, 507, "disk_full"),
    ],
)
def test_a_body_that_still_comes_has_its_place_until_it_is_given_up(
    tmp_path: Path, limit: str, value: int, status: int, code: str
) -> None:
    async def test() -> None:
        async with app(tmp_path, **{limit: value}) as (client, service):
            given_up = await Slow().send(client, announced=len(CLIP))
            refusal(await client.post("/jobs", content=CLIP), status, code)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            slow = Slow()
            sending = await slow.send(client, announced=len(CLIP))
            refusal(await client.post("/jobs", content=CLIP), status, code)
            slow.may_end.set()
            assert (await sending).status_code == 202
            refusal(await client.post("/jobs", content=CLIP), status, code)
            assert len(list(service.jobs_root.iterdir())) == 1

    check(test)


def test_bodies_of_unknown_length_are_counted_when_they_are_there(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, disk_quota_bytes=2 * len(CLIP) - 1) as (client, service):
            both = [Slow(), Slow()]
            sent = [await slow.send(client) for slow in both]
            for slow in both:
                slow.may_end.set()
            statuses = sorted([(await answer).status_code for answer in sent])
            assert statuses == [202, 507]
            assert len(list(service.jobs_root.iterdir())) == 1

    check(test)


def test_a_job_that_is_sent_twice_at_once_with_its_key_needs_one_place(tmp_path: Path) -> None:
    async def test() -> None:
        limits = {"jobs_per_key": 1, "job_queue": 1, "jobs_per_hour": 1}
        async with app(tmp_path, keyed=True, **limits) as (client, service):
            slow, key = Slow(), {"Idempotency-Key": "k"}
            sending = await slow.send(client, **key)
            again = await client.post("/jobs", content=CLIP, headers=key)
            slow.may_end.set()
            first = await sending
            assert (first.status_code, again.status_code) == (202, 202)
            assert first.json()["id"] == again.json()["id"]
            assert len(list(service.jobs_root.iterdir())) == 1

    check(test)


def test_the_disk_is_counted_with_what_still_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        total, used, free = 10**9, 0, 2 * len(CLIP) - 1

    async def test() -> None:
        async with app(tmp_path) as (client, _):
            monkeypatch.setattr("server.limits.shutil.disk_usage", lambda _: Usage)
            slow = Slow()
            sending = await slow.send(client, announced=len(CLIP))
            refusal(await client.post("/jobs", content=CLIP), 507, "disk_full")
            Usage.free += 1
            assert (await client.post("/jobs", content=CLIP)).status_code == 202
            slow.may_end.set()
            assert (await sending).status_code == 202

    check(test)


def test_a_job_that_is_about_to_begin_when_the_server_stops_waits_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        begins, may_begin = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        async with app(tmp_path) as (client, service):
            get = service.store.get

            def slow_get(job_id: str) -> Job | None:
                loop.call_soon_threadsafe(begins.set)
                may_begin.wait()
                return get(job_id)

            monkeypatch.setattr(service.store, "get", slow_get)
            made = await client.post("/jobs", content=CLIP)
            await begins.wait()
            stopping = asyncio.create_task(service.jobs.stop())
            await asyncio.sleep(0)  # it has told all tickets
            may_begin.set()
            await stopping
            stopped = service.store.get(made.json()["id"])
            assert stopped is not None
            assert stopped.state == "queued"

    check(test)


def test_a_job_waits_until_a_worker_has_begun_with_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as (client, service):  # no worker is ever ready
            made = (await client.post("/jobs", content=CLIP)).json()
            await until(lambda: service.store.get(made["id"]).state == "running")  # it is claimed
            for shown in (
                (await client.get(f"/jobs/{made['id']}")).json(),
                (await client.get("/jobs")).json()["jobs"][0],
            ):
                assert (shown["state"], shown["started_at"]) == ("queued", None)
        async with app(tmp_path, worker=HANGING) as (client, service):
            states = []
            async with contextlib.aclosing(service.jobs.watch(made["id"])) as seen:
                async for each in seen:
                    states.append(job_view(each, service.jobs.progress(each)).state)
                    if states[-1] == "running":
                        break
            assert set(states[:-1]) <= {"queued"}
            await until(lambda: service.store.get(made["id"]).started_at is not None)

    check(test)
