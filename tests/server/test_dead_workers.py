"""Work that is handed to a worker which was killed a moment ago goes to the next one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until, workers_of
from tests.server.media.clips import Clip, write_clip

Ask = Callable[[LiveServer, Path], int]
PATIENCE_SECONDS = 80
"""A busy machine takes its time to start the next worker."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    seconds = str(PATIENCE_SECONDS)
    with live_server(tmp_path_factory.mktemp("data"), SR_QUEUE_SECONDS=seconds) as running:
        wait_ready(running)
        yield running


def post(server: LiveServer, content: bytes) -> int:
    url = f"{server.url}/upscale"
    answer = httpx.post(url, content=content, timeout=PATIENCE_SECONDS, trust_env=False)
    return answer.status_code


def picture(server: LiveServer, _: Path) -> int:
    return post(server, png())


def video(server: LiveServer, folder: Path) -> int:
    return post(server, write_clip(folder / "clip", Clip(frames=3)).read_bytes())


def live(server: LiveServer, _: Path) -> int:
    url = server.url.replace("http", "ws") + "/stream?width=8&height=8&format=rgb24&answer=rgb24"
    with connect(url, proxy=None) as stream:
        stream.send(bytes(192))
        kinds = [json.loads(stream.recv(PATIENCE_SECONDS))["type"] for _ in range(2)]
        while isinstance(stream.recv(PATIENCE_SECONDS), str):
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
        (worker,) = workers_of(server.process.pid)
        worker.suspend()  # as one that is dead and not yet seen to be: it takes what it is given
        asked = thread.submit(ask, server, tmp_path)
        wait_until(lambda: states() == ["busy"], "work in the hands of the worker")
        worker.kill()
        assert asked.result(90) == 200, server.log()
