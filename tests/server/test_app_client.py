"""The Python client against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.client import Client, ServerError
from tests.server.live import LiveServer, live_server, pixels_of, png, wait_ready


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
    client.fetch(job["id"], tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").stat().st_size == client.job(job["id"])["result_bytes"]
    assert [found["id"] for found in client.jobs()] == [job["id"]]
    with pytest.raises(ServerError) as late:
        client.cancel(job["id"])
    assert (late.value.status, late.value.code) == (409, "conflict")
    client.delete(job["id"])
    assert client.jobs() == []


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
