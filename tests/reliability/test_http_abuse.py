"""Requests that break the rules of HTTP cost a refusal; generated ones find no error of ours."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.reliability.abuse import EXPECTED, answer, requests
from tests.reliability.generated import run_generated
from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

PNG = png(8, 8)
REQUESTS = requests(PNG)
CASES = 240
"""Generated requests; ``make reliability`` sends more."""


@contextmanager
def started(data_dir: Path, **options: str) -> Iterator[LiveServer]:
    with live_server(data_dir, SR_MAX_PICTURE_BYTES="200000", **options) as running:
        wait_ready(running)
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with started(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """For bodies that never end: where one must be taken, a second is soon over."""
    with started(tmp_path_factory.mktemp("data"), SR_BODY_IDLE_SECONDS="1") as running:
        yield running


def files_in(server: LiveServer) -> set[str]:
    spool = server.data_dir / "spool"
    return {str(path.relative_to(spool)) for path in spool.rglob("*")}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_breaks_the_rules_is_refused_and_leaves_nothing(
    name: str, server: LiveServer, impatient: LiveServer
) -> None:
    asked = impatient if "408" in EXPECTED[name] else server
    assert answer(asked.url, REQUESTS[name]) in EXPECTED[name]
    wait_until(lambda: not files_in(asked), "an empty spool")


def test_after_all_of_it_the_server_works_and_has_no_error_in_its_log(server: LiveServer) -> None:
    with server.client() as client:
        assert client.post("/upscale", content=PNG).status_code == 200
        assert client.get("/livez").status_code == 200
        assert 'method="UPSCALE"' not in client.get("/metrics").text
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("form", [False, True])
def test_a_body_is_checked_against_its_digest(
    algorithm: str, form: bool, server: LiveServer
) -> None:
    request = httpx.Request("POST", "http://x/", files={"file": PNG} if form else None)
    body = request.read() if form else PNG
    digest = base64.b64encode(hashlib.new(algorithm, body).digest()).decode()
    headers = {"Content-Digest": f"md5=:AAAA:, {algorithm.replace('a', 'a-')}=:{digest}:"}
    if form:
        headers["Content-Type"] = request.headers["Content-Type"]
    with server.client() as client:
        assert client.post("/upscale", content=body, headers=headers).status_code == 200
        changed = client.post("/upscale", content=body + b"\r\n", headers=headers)
        assert (changed.status_code, changed.json()["error"]["code"]) == (400, "digest_mismatch")
        job = client.post("/jobs", content=body + b"\r\n", headers=headers)
        assert (job.status_code, job.json()["error"]["code"]) == (400, "digest_mismatch")
    wait_until(lambda: not files_in(server), "an empty spool")


def test_no_generated_request_finds_an_error_of_ours(server: LiveServer, tmp_path: Path) -> None:
    """Schemathesis: valid and invalid parameters and bodies for every operation."""
    clip = write_clip(tmp_path / "clip", Clip(width=16, height=16, frames=3)).read_bytes()
    found = run_generated(server, CASES, clip)
    assert found.server_errors == []
    assert found.operations >= 10
    assert found.cases >= 0.9 * CASES
    assert {"200", "202", "400", "404"} <= set(found.statuses)
    with server.client() as client:
        assert client.post("/upscale", content=PNG).status_code == 200
