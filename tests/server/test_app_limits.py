"""Each limit just below, at and just above its value, and what it costs to ask too much."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access import KeyRing, LinkSigner, hash_key, host_is_allowed, origin_is_ours
from server.errors import ApiError
from server.limits import Arrivals, RateLimiter, check_disk
from server.settings import Limits, Settings
from server.streams import single_range
from tests.server.live import (
    LiveServer,
    live_server,
    png,
    suspended_workers,
    wait_ready,
    wait_until,
)

LIMITS = {
    "SR_MAX_VIDEO_FRAMES": "10",
    "SR_MAX_VIDEO_SECONDS": "0.5",
    "SR_MAX_VIDEO_PIXELS": "1024",
    "SR_MAX_VIDEO_SIDE": "64",
    "SR_MAX_FPS": "60",
    "SR_MAX_STREAMS": "2",
    "SR_MAX_JOB_FRAMES": "12",
    "SR_MAX_JOB_SECONDS": "1",
    "SR_MAX_JOB_BYTES": "20000",
    "SR_PICTURE_QUEUE": "3",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("data"), **LIMITS) as running:
        wait_ready(running)
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def make_clip(
    frames: int = 4, width: int = 16, height: int = 16, fps: int = 30, streams: int = 1
) -> bytes:
    """A small MP4 of noise."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        outputs = []
        for _ in range(streams):
            stream = container.add_stream("mpeg4", rate=fps)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p"
            stream.time_base = Fraction(1, fps)
            outputs.append(stream)
        for index in range(frames):
            pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            for stream in outputs:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
        for stream in outputs:
            container.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("clip", "code"),
    [
        ({"frames": 9}, None),
        ({"frames": 10}, None),
        ({"frames": 11}, "too_many_frames"),
        ({"frames": 4, "fps": 10}, None),
        ({"frames": 5, "fps": 10}, None),
        ({"frames": 6, "fps": 10}, "too_long"),
        ({"width": 33, "height": 31}, None),
        ({"width": 32, "height": 32}, None),
        ({"width": 41, "height": 25}, "too_many_pixels"),
        ({"width": 63, "height": 8}, None),
        ({"width": 64, "height": 8}, None),
        ({"width": 65, "height": 8}, "frame_too_large"),
        ({"fps": 59}, None),
        ({"fps": 60}, None),
        ({"fps": 61}, "too_many_fps"),
        ({"streams": 1}, None),
        ({"streams": 2}, None),
        ({"streams": 3}, "too_many_streams"),
    ],
)
def test_the_limits_of_a_streamed_video(
    client: httpx.Client, clip: dict[str, int], code: str | None
) -> None:
    answer = client.post("/upscale", content=make_clip(**clip))
    if code is None:
        assert answer.status_code == 200, answer.text
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, code)
    assert error["limit"] is not None or code == "too_long"


@pytest.mark.parametrize(
    ("frames", "fps", "code"),
    [
        (11, 50, None),
        (12, 50, None),
        (13, 50, "too_many_frames"),
        (9, 10, None),
        (10, 10, None),
        (11, 10, "too_long"),
    ],
)
def test_the_frame_and_time_limits_of_jobs(
    client: httpx.Client, frames: int, fps: int, code: str | None
) -> None:
    job_id = client.post("/jobs", content=make_clip(frames, fps=fps)).json()["id"]
    wait_until(lambda: client.get(f"/jobs/{job_id}").json()["state"] in ("done", "failed"), "end")
    job = client.get(f"/jobs/{job_id}").json()
    assert (job["error"] or {}).get("code") == code
    assert job["state"] == ("failed" if code else "done")


@pytest.mark.parametrize(("size", "status"), [(19999, 202), (20000, 202), (20001, 413)])
def test_the_byte_limit_of_jobs(
    client: httpx.Client, server: LiveServer, size: int, status: int
) -> None:
    clip = make_clip()
    before = len(list((server.data_dir / "jobs").iterdir()))
    answer = client.post("/jobs", content=clip + bytes(size - len(clip)))
    assert answer.status_code == status
    assert len(list((server.data_dir / "jobs").iterdir())) == before + (status == 202)


def test_too_many_pictures_at_once_get_503_and_a_time_to_come_back(server: LiveServer) -> None:
    body = png(200, 200)

    def ask(_: int) -> httpx.Response:
        with server.client() as client:
            return client.post("/upscale", content=body)

    with ThreadPoolExecutor(24) as threads:
        with suspended_workers(server):  # or it could be as fast as they come
            asks = [threads.submit(ask, number) for number in range(48)]
            wait_until(lambda: any(each.done() for each in asks), "one who is refused")
        answers = [each.result() for each in asks]
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert all(answer.json()["error"]["code"] == "queue_full" for answer in refused)
    with server.client() as client:
        assert client.post("/upscale", content=body).status_code == 200


def spooled(data_dir: Path) -> set[str]:
    """The requests that have files in the spool."""
    return {path.name.split(".")[0] for path in (data_dir / "spool").iterdir()}


def test_a_full_queue_refuses_before_the_body_and_keeps_the_connection(tmp_path: Path) -> None:
    settings = {"SR_WORKERS": "1", "SR_PICTURE_QUEUE": "1", "SR_REQUEST_BURST": "10000"}
    with live_server(tmp_path, "--host", "0.0.0.0", **settings) as server:
        wait_ready(server)
        key = {"X-API-Key": str(server.key)}
        with ThreadPoolExecutor(2) as threads, server.client(headers=key) as client:
            with suspended_workers(server):
                waiting = [threads.submit(client.post, "/upscale", content=png()) for _ in range(2)]
                wait_until(
                    lambda: 'sr_queued{kind="picture"} 1.0' in client.get("/metrics").text,
                    "a queue",
                )
                # A picture is counted before its files are there.
                wait_until(lambda: len(spooled(server.data_dir)) == 2, "both pictures on disk")
                before = spooled(server.data_dir)
                small = client.post("/upscale", content=png())
                assert (small.status_code, small.json()["error"]["limit"]) == (503, 1)
                assert int(small.headers["Retry-After"]) > 0
                assert "Connection" not in small.headers
                large = client.post("/upscale", content=bytes(200_000))
                assert (large.status_code, large.headers["Connection"]) == (503, "close")
                with server.client() as stranger:
                    assert stranger.post("/upscale", content=png()).status_code == 401
                assert spooled(server.data_dir) == before
                assert 'sr_requests_total{method="POST",route="/upscale",status="503"}' in (
                    client.get("/metrics").text
                )
            assert [answer.result().status_code for answer in waiting] == [200, 200]


def test_an_arrival_counts_until_it_is_received_and_a_slow_one_only_for_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        arrivals = Arrivals()
        with arrivals.counted(), arrivals.counted():
            assert arrivals.count == 2
        assert arrivals.count == 0
        monkeypatch.setattr(Arrivals, "SECONDS", 0.0)
        with arrivals.counted():
            while arrivals.count:
                await asyncio.sleep(0)
        assert arrivals.count == 0

    asyncio.run(test())


def test_a_caller_gets_its_burst_and_then_its_rate() -> None:
    now = 0.0
    limiter = RateLimiter(per_second=2, burst=3, clock=lambda: now)
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(ApiError) as refused:
        limiter.take("a")
    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "1"
    limiter.take("b")
    now = 0.5
    limiter.take("a")
    with pytest.raises(ApiError):
        limiter.take("a")


def test_the_rate_limit_holds_for_keyed_callers(tmp_path: Path) -> None:
    rate = {"SR_REQUEST_BURST": "3", "SR_REQUESTS_PER_SECOND": "0.01"}
    with live_server(tmp_path, "--host", "0.0.0.0", **rate) as server:
        assert server.key is not None
        with server.client(headers={"X-API-Key": server.key}) as client:
            statuses = [client.get("/limits").status_code for _ in range(4)]
            assert statuses == [200, 200, 200, 429]
            assert client.get("/livez").status_code == 200


def test_the_disk_keeps_its_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        total, used, free = 10_000, 0, 1_000

    monkeypatch.setattr("server.limits.shutil.disk_usage", lambda _: Usage)
    limits = Limits(disk_keep_bytes=300)
    check_disk(tmp_path, 699, limits)
    check_disk(tmp_path, 700, limits)
    with pytest.raises(ApiError) as full:
        check_disk(tmp_path, 701, limits)
    assert (full.value.status, full.value.limit, full.value.actual) == (507, 700, 701)
    check_disk(tmp_path, 500, Limits(disk_keep_bytes=10**9))  # never more than 5 % of the disk


def test_keys_open_by_hash_only() -> None:
    ring = KeyRing({hash_key("one"): "a", hash_key("two"): "b"})
    owners = [getattr(ring.caller(key), "owner", None) for key in ("one", "two", "", None, "three")]
    assert owners == ["a", "b", None, None, None]
    assert ring.caller(hash_key("one")) is None


def test_a_link_is_for_one_job_until_it_expires(tmp_path: Path) -> None:
    signer = LinkSigner.open(tmp_path)
    later = 2**40
    signature = signer.sign("job", later)
    assert LinkSigner.open(tmp_path).is_valid("job", later, signature)
    assert not signer.is_valid("other", later, signature)
    assert not signer.is_valid("job", later + 1, signature)
    assert not signer.is_valid("job", 1, signer.sign("job", 1))
    assert not signer.is_valid("job", later, "é")


def test_hosts_and_origins() -> None:
    here = Settings(host="127.0.0.1")
    assert [host_is_allowed(host, here) for host in ("localhost:1", "[::1]", "x", "")] == [
        True,
        True,
        False,
        False,
    ]
    assert host_is_allowed("any.example", Settings(host="0.0.0.0"))
    named = Settings(host="0.0.0.0", allowed_hosts=("sr.example",))
    assert host_is_allowed("sr.example:443", named)
    assert not host_is_allowed("any.example", named)
    assert origin_is_ours("http://a:1", "a:1")
    assert not origin_is_ours("null", "a:1")


@pytest.mark.parametrize(
    "header",
    [
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-2",
        "bytes",
        "bytes=\u00b2-",
        "bytes=\u00b2-5",
        None,
    ],
)
def test_a_range_that_says_nothing_gets_the_whole(header: str | None) -> None:
    assert single_range(header, 10) is None


def test_an_empty_suffix_range_cannot_be_satisfied() -> None:
    with pytest.raises(ApiError) as refused:
        single_range("bytes=-0", 10)
    assert refused.value.status == 416


def test_a_range_that_begins_after_any_number_cannot_be_satisfied() -> None:
    with pytest.raises(ApiError) as refused:
        single_range(f"bytes={'9' * 5000}-", 10)
    assert refused.value.status == 416
    assert single_range(f"bytes=3-{'9' * 5000}", 10) == (3, 9)


@given(st.text(max_size=30), st.integers(1, 100))
def test_any_range_lies_in_the_file_or_is_refused(text: str, size: int) -> None:
    part = None
    with contextlib.suppress(ApiError):  # 416
        part = single_range(f"bytes={text}", size)
    assert part is None or 0 <= part[0] <= part[1] < size
