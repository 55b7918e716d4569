"""Jobs from the outside: submitted, watched, fetched, cancelled, deleted, and never lost."""

from __future__ import annotations

import hashlib
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from tests.reliability.figures import record
from tests.server.gate import gated_server
from tests.server.live import (
    LiveServer,
    environment,
    live_server,
    png,
    suspended_workers,
    wait_ready,
    wait_until,
)

Json = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("data"), SR_WORKERS="2") as running:
        wait_ready(running)
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def clip(data: Path) -> bytes:
    return (data / "demo" / "city_256x256.mp4").read_bytes()


def submit(client: httpx.Client, clip: bytes, query: str = "", **headers: str) -> Json:
    answer = client.post(f"/jobs?{query}", content=clip, headers=headers)
    assert answer.status_code == 202, answer.text
    job: Json = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    return job


def finished(client: httpx.Client, job_id: str) -> Json:
    *_, (name, job) = events(client, job_id)
    assert name == "end"
    return job


def events(client: httpx.Client, job_id: str) -> Iterator[tuple[str, Json]]:
    with client.stream("GET", f"/jobs/{job_id}/events") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_a_job_is_watched_to_its_end_and_fetched(tmp_path: Path, clip: bytes) -> None:
    with gated_server(tmp_path, 20) as gate, gate.server.client() as client:
        job = submit(client, clip, "height=512")
        heard = []
        for name, seen in events(client, job["id"]):
            told = any(each["fps"] for _, each in heard)
            heard.append((name, seen))
            if seen["fps"] and not told:  # until then it could be done before anybody looks
                gate.tell()
        _check_job(client, job, heard)


def _check_job(client: httpx.Client, job: Json, heard: list[tuple[str, Json]]) -> None:
    """It was heard of until it was done, and all of it can be had."""
    assert heard[-1][0] == "end"
    assert {name for name, _ in heard[:-1]} == {"progress"}
    frames = [seen["frames"] for _, seen in heard]
    assert frames == sorted(frames)
    assert any(seen["fps"] and seen["eta_seconds"] is not None for _, seen in heard[:-1])
    last = heard[-1][1]
    assert (last["state"], last["frames"]) == ("done", 41)
    manifest = last["manifest"]
    assert manifest["frames_in"] == manifest["frames_out"] == 41
    assert {"decode", "upscale", "encode"} <= manifest["stages"].keys()
    for times in manifest["stages"].values():
        assert times.keys() == {"p50_ms", "p95_ms", "p99_ms"}
    assert min(manifest["stages"][name]["p50_ms"] for name in ("decode", "encode")) > 0
    assert manifest["fps"] > 0
    assert manifest["backend"]["name"] == "nearest"
    chain = {"dataset_sha256", "checkpoint_sha256", "weights_sha256"}
    assert chain | {"onnx_sha256", "plan_sha256"} <= manifest["backend"].keys()
    counted = r'sr_stage_seconds_count{kind="job",stage="encode"} (\S+)'
    number = re.search(counted.replace("{", r"\{"), client.get("/metrics").text)
    assert number
    assert float(number[1]) >= 41
    result = client.get(f"/jobs/{job['id']}/result")
    assert result.headers["Content-Type"] == "video/mp4"
    assert len(result.content) == last["result_bytes"]
    preview = client.get(f"/jobs/{job['id']}/preview")
    assert preview.content.startswith(b"\xff\xd8\xff")
    assert job["id"] in [listed["id"] for listed in client.get("/jobs").json()["jobs"]]


@pytest.fixture(scope="module")
def done_job(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Json:
    source = Path(__file__).parents[1] / "data" / "demo" / "city_256x256.mp4"
    with server.client() as client:
        return finished(client, submit(client, source.read_bytes(), "height=256")["id"])


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 9),
        ("bytes=10-", 206, 10, -1),
        ("bytes=-7", 206, -7, -1),
        ("bytes=5-999999999", 206, 5, -1),
        ("bytes=0-0,2-2", 200, 0, -1),
        ("lines=0-1", 200, 0, -1),
        ("bytes=999999999-", 416, 0, 0),
    ],
)
def test_a_range_of_a_result(
    client: httpx.Client, done_job: Json, asked: str, status: int, first: int, last: int
) -> None:
    path = f"/jobs/{done_job['id']}/result"
    whole = client.get(path).content
    answer = client.get(path, headers={"Range": asked})
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["Content-Range"] == f"bytes */{len(whole)}"
        return
    first, last = first % len(whole), last % len(whole)
    assert answer.content == whole[first : last + 1]
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"


def test_a_range_of_another_file_gets_the_whole(client: httpx.Client, done_job: Json) -> None:
    path = f"/jobs/{done_job['id']}/result"
    etag = client.head(path).headers["ETag"]
    for known, status in ((etag, 206), ('"another"', 200)):
        headers = {"Range": "bytes=0-9", "If-Range": known}
        assert client.get(path, headers=headers).status_code == status


def test_a_head_of_a_result_tells_its_size_and_sends_nothing(
    client: httpx.Client, done_job: Json
) -> None:
    head = client.head(f"/jobs/{done_job['id']}/result")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["Content-Length"]) == done_job["result_bytes"]
    assert head.headers["Accept-Ranges"] == "bytes"
    assert [client.head(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    assert client.get("/livez").json() == {"status": "alive"}  # the connection is still good


def test_a_job_of_a_given_size(client: httpx.Client, clip: bytes) -> None:
    sent = [submit(client, clip, "size=96x64", **{"Idempotency-Key": "sized"}) for _ in range(2)]
    assert sent[0]["id"] == sent[1]["id"]
    output = finished(client, sent[0]["id"])["manifest"]["output"]
    assert (output["width"], output["height"]) == (96, 64)


def test_the_same_key_gives_the_same_job_and_another_body_is_refused(
    client: httpx.Client, clip: bytes
) -> None:
    with ThreadPoolExecutor(8) as threads:
        jobs = list(
            threads.map(
                lambda _: submit(client, clip, "height=256", **{"Idempotency-Key": "k1"}), range(8)
            )
        )
    assert len({job["id"] for job in jobs}) == 1
    other = client.post("/jobs?height=128", content=clip, headers={"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    finished(client, jobs[0]["id"])


def test_a_cancelled_job_stops_and_a_deleted_one_is_gone(tmp_path: Path, clip: bytes) -> None:
    with gated_server(tmp_path, 20) as gate, gate.server.client() as client:
        job = submit(client, clip, "quality=1")
        wait_until(lambda: client.get(f"/jobs/{job['id']}").json()["frames"] > 0, "the first frame")
        gate.tell(b"left")  # the engine goes on when it has been told to stop
        stopped = client.post(f"/jobs/{job['id']}/cancel").json()
        assert stopped["state"] == "cancelled"
        assert client.post(f"/jobs/{job['id']}/cancel").status_code == 409
        assert client.get(f"/jobs/{job['id']}/result").status_code == 409
        wait_until(lambda: client.get("/readyz").json()["workers"] == ["idle"], "an idle worker")
        assert client.delete(f"/jobs/{job['id']}").status_code == 204
        assert client.get(f"/jobs/{job['id']}").status_code == 404
        assert not (gate.server.data_dir / "jobs" / job["id"]).exists()


def test_a_dry_run_estimates_and_keeps_nothing(
    client: httpx.Client, server: LiveServer, clip: bytes
) -> None:
    before = sorted((server.data_dir / "jobs").iterdir())
    answer = client.post("/jobs?dry_run=1&height=512", content=clip)
    assert answer.status_code == 200
    made = answer.json()
    assert made["output"] == {"width": 512, "height": 512, "frames": 41, "codec": "libx264"}
    assert made["estimated_bytes_least"] < made["estimated_bytes"] < made["estimated_bytes_most"]
    assert sorted((server.data_dir / "jobs").iterdir()) == before


def test_a_signed_link_needs_no_key_and_opens_only_its_result(tmp_path: Path, clip: bytes) -> None:
    with live_server(tmp_path, "--host", "0.0.0.0") as server:
        headers = {"Authorization": f"Bearer {server.key}"}
        with server.client() as stranger, server.client(headers=headers) as owner:
            wait_ready(server)
            jobs = [submit(owner, clip, "height=64") for _ in range(2)]
            for job in jobs:
                assert finished(owner, job["id"])["state"] == "done"
            link = owner.post(f"/jobs/{jobs[0]['id']}/link").json()["url"]
            assert stranger.get(link).status_code == 200
            forged = link.replace(jobs[0]["id"], jobs[1]["id"])
            assert stranger.get(forged).status_code == 401
            assert stranger.get(link.replace("expires=", "expires=9")).status_code == 401
            for number in ("%C2%B2", "9" * 5000):
                forged = f"/jobs/any/result?expires={number}&signature=a"
                assert stranger.get(forged).status_code == 401
            assert stranger.get(f"/jobs/{jobs[0]['id']}/result").status_code == 401


def test_every_route_is_closed_without_a_key_and_jobs_are_only_their_owners(
    tmp_path: Path, clip: bytes
) -> None:
    keys = tmp_path / "keys"
    made = [
        subprocess.run(
            [sys.executable, "-m", "server", "--add-key", name],
            env=environment(tmp_path, SR_API_KEYS_FILE=str(keys)),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("first", "second")
    ]
    with live_server(tmp_path, SR_API_KEYS_FILE=str(keys)) as server:
        wait_ready(server)
        with server.client() as client:
            first, second = ({"X-API-Key": key} for key in made)
            job = client.post("/jobs?height=64", content=clip, headers=first).json()
            schema = client.get("/openapi.json", headers=first).json()
            public = {"/livez", "/readyz"}
            refused: dict[str, list[bool]] = {"refused": [], "foreign": []}
            for path, operations in schema["paths"].items():
                for method in operations:
                    url = path.replace("{job_id}", job["id"])
                    for bad in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic abc"}):
                        status = client.request(method, url, headers=bad).status_code
                        if path in public:
                            assert status != 401, (method, path)
                        else:
                            refused["refused"].append(status == 401)
                    if method == "get" and not path.endswith("/events"):
                        assert client.get(url, headers=first).status_code not in (401, 403), path
                    if "{job_id}" in path:
                        answer = client.request(method, url, headers=second)
                        refused["foreign"].append(answer.status_code == 404)
            for path in ("/docs", "/openapi.json"):
                refused["refused"].append(client.get(path).status_code == 401)
            for name, verdicts in refused.items():
                record(name, f"{sum(verdicts)} of {len(verdicts)}")
                assert all(verdicts), refused
            assert len(refused["refused"]) >= 30
            assert client.get(f"/jobs/{job['id']}", headers=first).status_code == 200
            assert client.get("/jobs", headers=second).json() == {"jobs": []}


@pytest.mark.parametrize(("limit", "status", "code"), [("2", 429, "too_many_jobs")])
def test_the_limit_of_unfinished_jobs(
    tmp_path: Path, clip: bytes, limit: str, status: int, code: str
) -> None:
    with live_server(tmp_path, SR_JOBS_PER_KEY=limit) as server, server.client() as client:
        wait_ready(server)
        with suspended_workers(server):  # neither is done before the third one comes
            jobs = [submit(client, clip) for _ in range(2)]
            refused = client.post("/jobs", content=clip)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
            # The second one is in no worker's hands, which would have to let go of it.
            assert client.post(f"/jobs/{jobs[1]['id']}/cancel").json()["state"] == "cancelled"
            submit(client, clip, "height=64")


def test_a_picture_and_a_broken_video_are_no_jobs(client: httpx.Client, clip: bytes) -> None:
    assert client.post("/jobs", content=png()).status_code == 415
    job = submit(client, clip[: len(clip) // 3], "strict=1")
    failed = finished(client, job["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "truncated")


def frame_hashes(video: bytes) -> list[tuple[float, str]]:
    """(time, hash of the pixels) of every frame."""
    with av.open(io.BytesIO(video)) as container:
        return [
            (frame.time or 0.0, hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest())
            for frame in container.decode(video=0)
        ]


def segments_of(server: LiveServer, job: Json) -> int:
    """Finished segments of a running job."""
    ledger = server.data_dir / "jobs" / job["id"] / "segments" / "ledger.jsonl"
    return max(0, len(ledger.read_text().splitlines()) - 1) if ledger.exists() else 0


def test_jobs_survive_kills_and_give_the_same_frames(tmp_path: Path, clip: bytes) -> None:
    settings = {"SR_SEGMENT_SECONDS": "0.2"}
    with gated_server(tmp_path, 20, **settings) as gate, gate.server.client() as client:
        cut = submit(client, clip, "height=768")
        waiting = submit(client, clip, "height=64")
        wait_until(lambda: segments_of(gate.server, cut) >= 1, "a segment")
        gate.kill_worker()
        wait_until(lambda: segments_of(gate.server, cut) >= 3, "more segments")
        gate.wait_reached()
        gate.server.stop(signal.SIGKILL)  # everything dies
    with live_server(tmp_path / "data", **settings) as server, server.client() as client:
        whole = finished(client, submit(client, clip, "height=768")["id"])
        expected = client.get(f"/jobs/{whole['id']}/result").content
        for job in (cut, waiting):
            again = finished(client, job["id"])
            assert (again["state"], again["frames"]) == ("done", 41), again
            assert again["manifest"]["pts_sha256"] == whole["manifest"]["pts_sha256"]
        assert "resumed after" in str(client.get(f"/jobs/{cut['id']}").json()["manifest"])
        result = client.get(f"/jobs/{cut['id']}/result").content
    assert frame_hashes(result) == frame_hashes(expected)


def test_sigterm_leaves_a_running_job_for_the_next_start(tmp_path: Path, clip: bytes) -> None:
    settings = {"SR_SEGMENT_SECONDS": "0.2"}
    with gated_server(tmp_path, 20, **settings) as gate, gate.server.client() as client:
        job = submit(client, clip)
        wait_until(lambda: segments_of(gate.server, job) >= 1, "a segment")
        gate.tell(b"left")  # the engine goes on when it has been told to stop
        assert gate.server.stop() == 0
    with live_server(tmp_path / "data", **settings) as server, server.client() as client:
        again = finished(client, job["id"])
        assert (again["state"], again["frames"]) == ("done", 41)
        assert "resumed after" in str(again["manifest"]["warnings"])


def test_a_job_that_kills_every_worker_fails_and_others_go_on(tmp_path: Path, clip: bytes) -> None:
    with gated_server(tmp_path, 5) as gate, gate.server.client() as client:
        job = submit(client, clip)
        for _ in range(3):
            gate.kill_worker()  # in the middle of it: one that has not begun would not count
        failed = finished(client, job["id"])
        assert (failed["state"], failed["error"]["code"]) == ("failed", "engine_failed")
        other = submit(client, clip, "height=64")
        gate.tell()
        assert finished(client, other["id"])["state"] == "done"
