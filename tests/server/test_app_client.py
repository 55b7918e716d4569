"""The Python client against a real server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from server.client import Client, ServerError
from tests.server.live import (
    DEADLINE_SECONDS,
    LiveServer,
    lasting_port,
    live_server,
    pixels_of,
    png,
    wait_ready,
    wait_until,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("data")) as running:
        wait_ready(running)
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    with Client(server.url) as opened:
        yield opened


def test_a_picture_goes_there_and_back(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png())
    headers = client.upscale(tmp_path / "in.png", tmp_path / "out.jpg", format="jpeg")
    assert headers["x-sr-backend"] == "nearest"
    assert pixels_of((tmp_path / "out.jpg").read_bytes()).shape == (64, 64, 3)


def test_a_job_from_estimate_to_deletion(client: Client, tmp_path: Path, data: Path) -> None:
    clip = data / "demo" / "city_256x256.mp4"
    assert client.estimate(clip, height=64)["output"]["frames"] == 41
    job = client.submit(clip, height=64)
    assert [seen["state"] for seen in client.watch(job["id"])][-1] == "done"
    assert client.preview(job["id"]).startswith(b"\xff\xd8\xff")
    client.fetch(job["id"], tmp_path / "out.mp4")
    link = client.link(job["id"], seconds=60)
    with httpx.Client(trust_env=False, timeout=DEADLINE_SECONDS) as stranger:
        assert stranger.get(link["url"]).content == (tmp_path / "out.mp4").read_bytes()
        assert stranger.get(link["playlist"]).text.startswith("#EXTM3U")
    assert client.link(job["id"])["expires"] > link["expires"]
    assert (tmp_path / "out.mp4").stat().st_size == client.job(job["id"])["result_bytes"]
    assert [found["id"] for found in client.jobs()] == [job["id"]]
    with pytest.raises(ServerError) as late:
        client.cancel(job["id"])
    assert (late.value.status, late.value.code) == (409, "conflict")
    client.delete(job["id"])
    assert client.jobs() == []
    with pytest.raises(ServerError, match="no such job"):
        client.preview(job["id"])


def test_a_refusal_leaves_no_file(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"no picture")
    with pytest.raises(ServerError, match="not a supported picture") as refused:
        client.upscale(tmp_path / "in.png", tmp_path / "out.png")
    assert refused.value.code == "unsupported_media"
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_a_body_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    class Broken(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"half"
            raise httpx.RemoteProtocolError("peer closed connection")

    (tmp_path / "in.mp4").write_bytes(b"anything")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Broken()))
    with (
        Client("http://server", transport=transport) as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.upscale(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_an_answer_of_a_proxy_is_an_error_too(tmp_path: Path) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>"))
    with (
        Client("http://server", transport=transport) as client,
        pytest.raises(ServerError, match="Bad Gateway"),
    ):
        client.jobs()


def test_watching_goes_on_when_the_server_was_started_again(tmp_path: Path, data: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    port = ("--port", str(lasting_port()))
    gated = (*port, "20", str(tmp_path))
    with live_server(tmp_path / "data", *gated, module="tests.server.gated_server") as first:
        wait_ready(first)
        client = Client(first.url)
        job = client.submit(data / "demo" / "city_256x256.mp4", height=64)
        wait_until((tmp_path / "reached").exists, "a job in its middle")
        seen = client.watch(job["id"])
        assert next(seen)["state"] == "running"
        with first.client() as other, other.stream("GET", f"/jobs/{job['id']}/events") as events:
            first.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):  # not an end that looks like one
                events.read()
        os.close(os.open(gate, os.O_RDWR))  # the worker need not be waited for
        assert first.process.wait(DEADLINE_SECONDS) == 0
        assert "Traceback" not in first.log()
    with client, live_server(tmp_path / "data", *port):
        assert [known["state"] for known in seen][-1] == "done"
        assert client.job(job["id"])["frames"] == 41


def scripted(*answers: Callable[[], httpx.Response]) -> tuple[Client, list[float]]:
    """A client whose server gives these answers, and for how long the client waits between."""
    waits: list[float] = []
    left = iter(answers)
    transport = httpx.MockTransport(lambda _: next(left)())
    return Client("http://server", transport=transport, sleep=waits.append), waits


def told(*states: str) -> Callable[[], httpx.Response]:
    lines = [f"data: {json.dumps({'state': state})}\n\n" for state in states]
    return lambda: httpx.Response(200, text="".join(lines))


def refused(status: int) -> Callable[[], httpx.Response]:
    error = {"error": {"code": "a_code", "message": "in words"}}
    return lambda: httpx.Response(status, json=error)


def unreachable() -> httpx.Response:
    raise httpx.ConnectError("connection refused")


def test_watching_asks_again_later_and_later_until_the_job_has_ended() -> None:
    client, waits = scripted(
        told("queued", "running"), unreachable, refused(503), told("running"), told("failed")
    )
    with client:
        states = [job["state"] for job in client.watch("1")]
    assert states == ["queued", "running", "running", "failed"]
    assert waits == [0.25, 0.5, 1.0, 0.25]


def test_a_submission_that_broke_off_is_sent_again_as_the_same_job(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(b"anything")
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.read() == b"anything"
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("connection reset")
        return httpx.Response(202, json={"id": "1"})

    waits: list[float] = []
    transport = httpx.MockTransport(answer)
    with Client("http://server", transport=transport, sleep=waits.append) as client:
        assert client.submit(tmp_path / "in.mp4") == {"id": "1"}
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert waits == [0.5]


def test_watching_ends_with_what_will_not_pass() -> None:
    client, waits = scripted(told("running"), refused(404))
    with client, pytest.raises(ServerError, match="in words"):
        list(client.watch("1"))
    assert waits == [0.25]


def test_watching_gives_up_when_its_patience_is_over() -> None:
    client, waits = scripted(*[unreachable] * 100)
    with client, pytest.raises(httpx.ConnectError):
        list(client.watch("1", patience_seconds=30))
    assert sum(waits) >= 30 > sum(waits[:-1])
