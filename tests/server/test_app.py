"""What a client meets: pictures, videos, errors, limits; through a real socket."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server.live import (
    DEADLINE_SECONDS,
    LiveServer,
    live_server,
    pixels_of,
    png,
    wait_ready,
    wait_until,
)

LIMITS = {
    "SR_MAX_PICTURE_BYTES": "20000",
    "SR_MAX_PICTURE_PIXELS": "4095",
    "SR_MAX_PICTURE_SIDE": "100",
    "SR_MAX_VIDEO_BYTES": "1000000",
    "SR_MAX_VIDEO_FRAMES": "41",
}

CLIP_HEAD = b"\0\0\0\x18ftypisom" + bytes(100)
"""Enough of an MP4 for who only looks at its first bytes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("data"), SR_WORKERS="2", **LIMITS) as running:
        wait_ready(running)
        yield running
        assert running.stop() == 0


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def clip(data: Path) -> bytes:
    return (data / "demo" / "city_256x256.mp4").read_bytes()


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Checks the one form of an error and returns it."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"code", "message", "limit", "actual", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == answer.headers["X-Request-Id"]
    assert "/" not in error["message"].replace("/docs", "").replace("/upscale", "")
    return error


def noise_png(side: int, size: int) -> bytes:
    """A PNG of exactly ``size`` bytes, padded after its end, where readers stop."""
    picture = png(side, side)
    return picture + bytes(size - len(picture))


def spool_is_empty(server: LiveServer) -> bool:
    return not list((server.data_dir / "spool").iterdir())


def test_a_picture_comes_back_four_times_larger_and_says_who_made_it(client: httpx.Client) -> None:
    answer = client.post("/upscale", content=png(17, 9))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-SR-Backend"] == "nearest"
    assert "upscale;dur=" in answer.headers["Server-Timing"]
    expected = pixels_of(png(17, 9)).repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(pixels_of(answer.content), expected)


def test_a_form_gives_the_same_result_as_a_raw_body(client: httpx.Client) -> None:
    raw = client.post("/upscale", content=png())
    fields = {"note": "ignored"}
    form = client.post("/upscale", files={"file": ("../../etc/passwd", png())}, data=fields)
    assert form.content == raw.content


def test_format_and_height_are_obeyed(client: httpx.Client) -> None:
    answer = client.post("/upscale?format=webp&height=32", content=png())
    assert answer.headers["Content-Type"] == "image/webp"
    assert pixels_of(answer.content).shape == (32, 32, 3)


BAD_QUERIES = {
    "bogus=1": "bogus is no parameter here; /docs lists those there are",
    "quality=101": "quality must be at most 100, not '101'",
    "quality=-1": "quality must be at least 0, not '-1'",
    "quality=best": "quality takes a whole number, not 'best'",
    "quality=1.5": "quality takes a whole number, not '1.5'",
    "size=4by4": "size must be WIDTHxHEIGHT, e.g. 3840x2160, not '4by4'",
    "model=../secret": "model takes fast, balanced, quality or fast-video, not '../secret'",
    "format=gif": "format takes png, jpeg, webp, mp4, mov or mkv, not 'gif'",
    "format=mp4": "format: a picture can become png, jpeg, webp",
    "codec=lib/x264": "codec cannot be 'lib/x264'; see /docs for what it takes",
    "codec=libx264": "codec means nothing for a picture",
    "best=maybe": "best takes true or false, not 'maybe'",
    "height=32&size=32x32": "give height or size, not both",
}


@pytest.mark.parametrize(("query", "message"), BAD_QUERIES.items(), ids=BAD_QUERIES)
def test_a_bad_parameter_is_named_with_what_was_found(
    client: httpx.Client, query: str, message: str
) -> None:
    answer = client.post(f"/upscale?{query}", content=png())
    assert answer.json()["error"]["message"] == message
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_parameter")


@pytest.mark.parametrize(
    ("method", "path", "headers", "message"),
    [
        ("GET", "/jobs?count=0", {}, "count must be at least 1, not '0'"),
        ("GET", "/jobs?count=all", {}, "count takes a whole number, not 'all'"),
        ("POST", "/jobs?dry_run=maybe", {}, "dry_run takes true or false, not 'maybe'"),
        (
            "POST",
            "/jobs",
            {"Idempotency-Key": "k" * 201},
            "idempotency-key must be at most 200 characters long, not 201",
        ),
    ],
)
def test_other_routes_say_it_the_same_way(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], message: str
) -> None:
    error = error_of(client.request(method, path, headers=headers), 400, "bad_parameter")
    assert error["message"] == message


def test_a_size_that_is_no_size_for_this_picture_is_named(client: httpx.Client) -> None:
    error = error_of(client.post("/upscale?height=9999", content=png()), 400, "bad_parameter")
    assert "x4" in error["message"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("codec=nope", "nope"),
        ("quality=52", "51"),
        ("codec=av1&quality=64", "63"),
        ("best=1", "best"),
    ],
)
def test_what_no_encoder_can_do_is_refused_before_a_job_is_promised(
    client: httpx.Client, query: str, named: str
) -> None:
    for path in (f"/jobs?{query}", f"/jobs?dry_run=1&{query}", f"/upscale?{query}"):
        error = error_of(client.post(path, content=CLIP_HEAD), 400, "bad_parameter")
        assert named in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/jobs/0123", 404, "not_found"),
        ("PUT", "/upscale", 405, "method_not_allowed"),
        ("GET", "/jobs?count=0", 400, "bad_parameter"),
        ("POST", "/upscale", 400, "bad_request"),
    ],
)
def test_every_error_has_the_one_form(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    error_of(client.request(method, path), status, code)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"hello, this is no picture", 415, "unsupported_media"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", 415, "unsupported_media"),
        (png()[:60], 422, "unusable_media"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(40), 422, "unreadable"),
    ],
)
def test_bad_media_is_refused_and_nothing_is_left(
    client: httpx.Client, server: LiveServer, body: bytes, status: int, code: str
) -> None:
    error_of(client.post("/upscale", content=body), status, code)
    assert spool_is_empty(server)
    assert client.post("/upscale", content=png()).status_code == 200


@pytest.mark.parametrize("sent", ["length", "chunked", "form"])
@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413)])
def test_the_byte_limit_of_pictures(
    client: httpx.Client, server: LiveServer, sent: str, over: int, status: int
) -> None:
    body = noise_png(8, 20000 + over)
    if sent == "form":
        answer = client.post("/upscale", files={"file": ("a", body)})
    else:
        headers = {"Content-Type": "image/png"}
        pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
        content = body if sent == "length" else pieces
        answer = client.post("/upscale", content=content, headers=headers)
    assert answer.status_code == status
    if status == 413:
        assert error_of(answer, 413, "too_large")["limit"] == 20000
    wait_until(lambda: spool_is_empty(server), "an empty spool")


def test_a_body_that_is_far_too_large_is_refused_before_it_is_sent(server: LiveServer) -> None:
    with socket.create_connection(_address(server)) as connection:
        head = "POST /upscale HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_sends_first_and_reads_later_sees_the_refusal(server: LiveServer) -> None:
    with socket.create_connection(_address(server)) as connection:
        connection.settimeout(DEADLINE_SECONDS)
        head = "POST /upscale HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 8000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(8_000_000))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("width", "height", "status"),
    [(46, 89, 200), (63, 65, 200), (64, 64, 422), (99, 2, 200), (100, 2, 200), (101, 2, 422)],
)
def test_the_pixel_and_side_limits(
    client: httpx.Client, width: int, height: int, status: int
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    answer = client.post("/upscale", content=buffer.getvalue())
    assert answer.status_code == status
    if status == 422:
        error = error_of(answer, 422, "over_limit")
        assert error["actual"] > error["limit"]


def test_a_video_streams_back_and_its_manifest_is_a_job(
    client: httpx.Client, server: LiveServer, clip: bytes
) -> None:
    answer = client.post("/upscale?height=256", content=clip)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "video/mp4"
    assert b"moof" in answer.content
    job = client.get(f"/jobs/{answer.headers['X-SR-Job']}").json()
    assert (job["state"], job["kind"], job["frames"]) == ("done", "stream", 41)
    assert job["manifest"]["frames_in"] == job["manifest"]["frames_out"] == 41
    assert job["manifest"]["backend"]["name"] == "nearest"
    error_of(client.get(f"/jobs/{job['id']}/result"), 409, "not_finished")
    assert spool_is_empty(server)


def test_a_damaged_video_is_refused_before_the_200(client: httpx.Client, clip: bytes) -> None:
    cut = client.post("/upscale?strict=1", content=clip[: len(clip) // 3])
    error_of(cut, 422, "truncated")
    unknown = client.post("/upscale", content=clip.replace(b"avc1", b"xxxx"))
    error_of(unknown, 415, "unsupported_codec")


def test_silent_sockets_are_closed_and_slow_bodies_get_408(tmp_path: Path) -> None:
    # A server of its own: the other tests must not be late for it.
    limits = {"SR_HEADER_SECONDS": "2", "SR_BODY_IDLE_SECONDS": "0.5"}
    with live_server(tmp_path, **limits) as server, contextlib.ExitStack() as stack:
        silent, dripping, slow = (
            stack.enter_context(socket.create_connection(_address(server), DEADLINE_SECONDS))
            for _ in range(3)
        )
        slow.sendall(
            b"POST /upscale HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf"
        )
        dripping.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        for connection in (silent, dripping):
            assert connection.recv(1) == b""


def test_other_hosts_and_other_origins_are_refused(client: httpx.Client) -> None:
    error_of(client.get("/livez", headers={"Host": "evil.example"}), 403, "forbidden")
    error_of(client.get("/jobs", headers={"Origin": "http://evil.example"}), 403, "forbidden")
    own = f"http://{client.base_url.host}:{client.base_url.port}"
    assert client.get("/jobs", headers={"Origin": own}).status_code == 200


def test_broken_forms_are_told_what_is_wrong(client: httpx.Client) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    no_file = client.post("/upscale", files={"other": ("a", png())})
    assert "file" in error_of(no_file, 400, "bad_request")["message"]
    two = client.post("/upscale", files=[("file", ("a", png())), ("file", ("b", png()))])
    error_of(two, 400, "bad_request")
    cut = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + png()
    error_of(client.post("/upscale", content=cut, headers=kind), 400, "bad_request")
    many = {f"field{number}": "x" for number in range(10)}
    error_of(client.post("/upscale", files={"z": ("a", b"")}, data=many), 400, "bad_request")


def test_the_api_describes_itself(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/upscale", "/jobs", "/jobs/{job_id}", "/readyz"} <= schema["paths"].keys()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert "curl " in operation["description"], path
            for parameter in operation.get("parameters", []):
                assert "example" in parameter, (path, parameter["name"])
            for status, answer in operation["responses"].items():
                schema_of = json.dumps(answer)
                assert int(status) < 400 or status == "503" or "ErrorBody" in schema_of, path
    docs = client.get("/docs").text
    assert set(re.findall(r'(?:src|href)="(.)', docs)) == {"/"}
    assert "POST /upscale" in docs
    assert "`" not in docs  # all of it marked up
    limits = client.get("/limits").json()
    assert limits["max_picture_bytes"]["value"] == 20000
    assert limits["max_picture_bytes"]["variable"] == "SR_MAX_PICTURE_BYTES"


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    client.post("/upscale", content=png())
    client.post("/upscale", content=b"no")
    text = client.get("/metrics").text
    assert 'sr_tasks_total{kind="picture",outcome="done"}' in text
    assert 'sr_errors_total{code="unsupported_media"}' in text
    assert 'sr_stage_seconds_count{kind="picture",stage="upscale"}' in text
    assert 'sr_loop_lag_seconds{window="max"}' in text
    assert 'sr_workers{state="idle"}' in text


def test_log_lines_are_json_with_the_request_id(client: httpx.Client, server: LiveServer) -> None:
    answer = client.post("/upscale", files={"file": ("private-name.png", png())})
    request_id = answer.headers["X-Request-Id"]
    wait_until(lambda: request_id in server.log(), "the log line")
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert [line["status"] for line in lines if line.get("request_id") == request_id] == [200]
    assert "private-name" not in server.log()


def test_the_page_is_served_with_strict_headers(client: httpx.Client) -> None:
    for path in ("/", "/app.js", "/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def _address(server: LiveServer) -> tuple[str, int]:
    url = httpx.URL(server.url)
    assert url.port is not None
    return url.host, url.port


def test_a_request_that_is_cut_off_leaves_nothing(server: LiveServer) -> None:
    with contextlib.closing(socket.create_connection(_address(server))) as connection:
        head = b"POST /upscale HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000\r\n\r\n"
        connection.sendall(head + png())
    with server.client() as client:
        assert client.get("/livez").status_code == 200
    wait_until(lambda: spool_is_empty(server), "an empty spool")
