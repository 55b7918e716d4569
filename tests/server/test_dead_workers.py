"""Work that is handed to a worker which was killed a moment ago goes to the next one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from websockets.sync.client import connect

from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

Ask = Callable[[LiveServer, Path], int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("data")) as running:
        wait_ready(running)
        yield running


def picture(server: LiveServer, _: Path) -> int:
    with server.client() as client:
        return client.post("/upscale", content=png()).status_code


def video(server: LiveServer, folder: Path) -> int:
    clip = write_clip(folder / "clip", Clip(frames=3)).read_bytes()
    with server.client() as client:
        return client.post("/upscale", content=clip).status_code


def live(server: LiveServer, _: Path) -> int:
    url = server.url.replace("http", "ws") + "/stream?width=8&height=8&format=rgb24&answer=rgb24"
    with connect(url, proxy=None) as stream:
        stream.send(bytes(192))
        kinds = [json.loads(stream.recv(60))["type"] for _ in range(2)]
        while isinstance(stream.recv(60), str):
            pass
    return 200 if kinds == ["waiting", "hello"] else 500


@pytest.mark.parametrize("ask", [picture, video, live])
def test_what_a_dead_worker_never_began_is_done_by_the_next(
    ask: Ask, server: LiveServer, tmp_path: Path
) -> None:
    with server.client() as client, ThreadPoolExecutor(1) as thread:

        def states() -> list[str]:
            shown: list[str] = client.get("/readyz").json()["workers"]
            return shown

        wait_until(lambda: states() == ["idle"], "an idle worker")
        children = psutil.Process(server.process.pid).children()
        (worker,) = [child for child in children if "server.workers" in child.cmdline()]
        worker.suspend()  # as one that is dead and not yet seen to be: it takes what it is given
        asked = thread.submit(ask, server, tmp_path)
        wait_until(lambda: states() == ["busy"], "work in the hands of the worker")
        worker.kill()
        assert asked.result(90) == 200, server.log()
