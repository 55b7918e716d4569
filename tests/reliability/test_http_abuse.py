"""Requests that break the rules of HTTP cost a refusal; generated ones find no error of ours."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reliability.abuse import EXPECTED, answer, requests
from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until

PNG = png(8, 8)
REQUESTS = requests(PNG)
CASES = int(os.environ.get("SR_SCHEMA_CASES", "24"))
"""Schemathesis cases of each operation; ``make reliability`` asks for more."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    options = {"SR_BODY_IDLE_SECONDS": "1", "SR_MAX_PICTURE_BYTES": "200000"}
    with live_server(tmp_path_factory.mktemp("data"), **options) as running:
        wait_ready(running)
        yield running


def files_in(server: LiveServer) -> set[str]:
    spool = server.data_dir / "spool"
    return {str(path.relative_to(spool)) for path in spool.rglob("*")}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_breaks_the_rules_is_refused_and_leaves_nothing(
    name: str, server: LiveServer
) -> None:
    assert answer(server.url, REQUESTS[name]) in EXPECTED[name]
    wait_until(lambda: not files_in(server), "an empty spool")


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
    assert not files_in(server)


def test_no_generated_request_finds_an_error_of_ours(server: LiveServer) -> None:
    """Schemathesis: valid and invalid parameters and bodies for every operation."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 10
    sent = 0
    with server.client() as client:
        for operation in operations:
            if operation.path.endswith("/events"):
                continue  # a stream; the others stop by themselves
            positive = operation.as_strategy()
            negative = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

            @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=st.one_of(positive, negative))
            def check(case: schemathesis.Case) -> None:
                nonlocal sent
                sent += 1
                response = case.call(base_url=server.url, timeout=30)
                assert response.status_code < 500, (case.as_curl_command(), response.text)

            check()
        assert client.post("/upscale", content=PNG).status_code == 200
    print(f"{sent} cases")
    assert sent >= len(operations)
