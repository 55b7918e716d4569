"""Limits of requests that nobody works on: the app in this process, its worker is never ready.

Each at its limit less one, at it, and one more; those of time with a clock that is nearly over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from server.access import add_key
from server.app import create_app
from server.errors import ApiError
from server.jobs.model import Job
from server.service import Service
from server.settings import Limits, Settings
from server.streams import StreamResponse
from tests.server.live import png

NEVER_READY = ("/bin/sh", "-c", "exec sleep 1000")
HANGING = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
CLIP = b"\0\0\0\x18ftypisom" + bytes(100)
"""Enough of an MP4 for who only looks at its first bytes."""

Json = dict[str, Any]


@asynccontextmanager
async def app(
    data_dir: Path, *, keyed: bool = False, worker: Sequence[str] = NEVER_READY, **limits: float
) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A client of an app with these limits."""
    defaults: Json = {"disk_keep_bytes": 0, "jobs_per_hour": 1000, "request_burst": 1000}
    settings = Settings(
        backend="nearest",
        calibrate="off",
        workers=1,
        data_dir=data_dir,
        host="0.0.0.0" if keyed else "127.0.0.1",
        limits=Limits(**{**defaults, **limits}),
    )
    data_dir.mkdir(exist_ok=True)
    headers = {"X-API-Key": add_key(data_dir / "api_keys", "tester")} if keyed else {}
    made = create_app(settings, worker)
    service = made.state.service
    async with service.running():
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers
        ) as client:
            yield client, service


def check(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def refusal(answer: httpx.Response, status: int, code: str) -> Json:
    assert answer.status_code == status, answer.text
    error: Json = answer.json()["error"]
    assert error["code"] == code
    return error


def job(**changes: Any) -> Job:
    made = Job("a" * 32, "everybody", "job", "queued", time.time())
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("kind", "limit"), [("picture", "picture_queue"), ("video", "video_queue")]
)
def test_a_queue_takes_its_length_and_not_one_more(tmp_path: Path, kind: Any, limit: str) -> None:
    async def test() -> None:
        async with app(tmp_path, **{limit: 2}) as (client, service):
            body = png() if kind == "picture" else CLIP
            asks = []
            for waiting in (1, 2):
                asks.append(asyncio.create_task(client.post("/upscale", content=body)))
                await until(lambda waiting=waiting: service.pool.queued(kind) == waiting)
            answer = await client.post("/upscale", content=body)
            assert refusal(answer, 503, "queue_full")["limit"] == 2
            assert int(answer.headers["Retry-After"]) > 0
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)
            await until(lambda: service.pool.queued(kind) == 0)
            assert list(service.spool.iterdir()) == []

    check(test)


def test_who_waits_too_long_for_a_worker_is_told_to_come_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, queue_seconds=0.05) as (client, service):
            answer = await client.post("/upscale", content=png())
            assert refusal(answer, 503, "queue_full")["limit"] == 0.05
            assert list(service.spool.iterdir()) == []

    check(test)


def test_a_picture_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, worker=HANGING, picture_seconds=0.2) as (client, service):
            answer = await client.post("/upscale", content=png())
            assert refusal(answer, 504, "timed_out")["limit"] == 0.2
            assert list(service.spool.iterdir()) == []

    check(test)


def test_a_link_lasts_as_long_as_asked_or_as_the_server_says(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, link_seconds=1234) as (client, service):
            service.store.insert(job(state="done", result_name="result.mp4"))
            for query, seconds in (("", 1234), ("?seconds=7", 7)):
                before = int(time.time())
                answer = await client.post(f"/jobs/{'a' * 32}/link{query}")
                expires = answer.json()["expires"]
                assert before + seconds <= expires <= int(time.time()) + seconds
            refusal(await client.post(f"/jobs/{'a' * 32}/link?seconds=0"), 400, "bad_parameter")

    check(test)


@pytest.mark.parametrize(("size", "refused"), [(999, False), (1000, False), (1001, True)])
def test_the_bytes_of_a_streamed_video(tmp_path: Path, size: int, refused: bool) -> None:
    async def test() -> None:
        limits = {"max_video_bytes": 1000, "queue_seconds": 0.01, "max_picture_bytes": 500}
        async with app(tmp_path, **limits) as (client, service):
            answer = await client.post("/upscale", content=CLIP + bytes(size - len(CLIP)))
            if refused:
                error = refusal(answer, 413, "too_large")
                assert (error["limit"], error["actual"]) == (1000, size)
            else:
                refusal(answer, 503, "queue_full")  # it was taken in
            assert list(service.spool.iterdir()) == []

    check(test)


@pytest.mark.parametrize(("least", "status"), [(0, 503), (100_000, 408)])
def test_a_body_that_drips_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, status: int
) -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield CLIP
        for _ in range(8):
            yield b"."

    async def test() -> None:
        limits = {"body_idle_seconds": 30, "body_bytes_per_second": least, "queue_seconds": 0.01}
        clock = SimpleNamespace(monotonic=partial(next, count(0.0, 10.0)))  # 10 s for each piece
        async with app(tmp_path, **limits) as (client, service):
            monkeypatch.setattr("server.uploads.time", clock)
            answer = await client.post("/upscale", content=drip())
            assert answer.status_code == status, answer.text
            assert list(service.spool.iterdir()) == []

    check(test)


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"

    async def stuck(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def never() -> Any:
        await asyncio.Event().wait()

    async def test() -> None:
        response = StreamResponse(chunks(), {}, "video/mp4", slow_reader_seconds=0.05)
        with pytest.raises(ApiError, match="read nothing for too long"):
            await response({"type": "http"}, never, stuck)

    check(test)


def test_a_finished_job_is_kept_for_its_time_and_no_longer(tmp_path: Path) -> None:
    async def test() -> None:
        ages = {"a" * 32: 90.0, "b" * 32: 110.0}
        async with app(tmp_path) as (_, service):
            for job_id, age in ages.items():
                ended = time.time() - age
                service.store.insert(job(id=job_id, state="done", finished_at=ended))
                service.jobs.folder(job_id).path.mkdir()
        async with app(tmp_path, result_ttl_seconds=100) as (client, service):
            await until(lambda: service.store.get("b" * 32) is None)
            assert (await client.get(f"/jobs/{'b' * 32}")).status_code == 404
            assert (await client.get(f"/jobs/{'a' * 32}")).status_code == 200
            assert [path.name for path in service.jobs_root.iterdir()] == ["a" * 32]

    check(test)


def test_every_limit_is_shown_with_its_variable_and_its_cost(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as (client, _):
            shown = (await client.get("/limits")).json()
            assert shown.keys() == Limits.model_fields.keys()
            for name, entry in shown.items():
                assert entry["variable"] == f"SR_{name.upper()}"
                assert entry["over"], name

    check(test)
