"""How ``sr-server`` starts, refuses to start, and stops."""

from __future__ import annotations

import re
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from server.access import hash_key
from tests.server.gate import gated_server
from tests.server.live import (
    DEADLINE_SECONDS,
    environment,
    kill_workers,
    live_server,
    png,
    wait_ready,
    wait_until,
    workers_of,
)
from tests.server.media.clips import Clip, write_clip


def start(data_dir: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len([line for line in lines if not line.startswith("{")]) == 1, done.stderr
    assert lines[-1].startswith("sr-server: ")
    for word in words:
        assert word in lines[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SR_PORT": "ninety"}, ("SR_PORT", "ninety")),
        ({"SR_CALIBRATE": "huge"}, ("SR_CALIBRATE", "huge")),
        ({"SR_MAX_FPS": "-1"}, ("SR_MAX_FPS", "-1")),
        ({"SR_BACKEND": "cuda"}, ("SR_BACKEND", "cuda", "onnxruntime")),
        ({"SR_WORKERS": "many"}, ("SR_WORKERS", "many")),
        ({"SR_ALLOWED_HOSTS": "not json"}, ("allowed_hosts",)),
        ({"SR_HOST": "no.such.host.invalid"}, ("SR_HOST",)),
        ({"SR_DATA_DIR": "/proc/nothing"}, ("SR_DATA_DIR", "/proc/nothing")),
        ({"SR_CACHE_DIR": "/proc/nothing"}, ("SR_CACHE_DIR", "/proc/nothing")),
        ({"SR_API_KEYS_FILE": "/nowhere/keys"}, ("--add-key",)),
    ],
)
def test_a_bad_setting_is_one_sentence(
    tmp_path: Path, settings: dict[str, str], words: tuple[str, ...]
) -> None:
    arguments = () if "SR_PORT" in settings else ("--port", "0")
    assert_one_sentence(start(tmp_path, *arguments, **settings), 2, *words)


@pytest.mark.parametrize("name", ["spool", "jobs", "jobs.sqlite3", "link_secret"])
def test_a_data_directory_with_something_else_inside_is_one_sentence(
    tmp_path: Path, name: str
) -> None:
    if name in ("spool", "jobs"):
        (tmp_path / name).touch()
    elif name == "jobs.sqlite3":
        (tmp_path / name).write_bytes(b"not a database, and long enough to be looked at" * 100)
    else:
        (tmp_path / name).mkdir()
    assert_one_sentence(start(tmp_path, "--port", "0"), 2, name, "SR_DATA_DIR")


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_sentence(start(tmp_path, "--port", port), 2, port, "--port")


def test_an_engine_that_cannot_run_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    done = start(tmp_path, "--port", "0", SR_MODEL="/nowhere/model.safetensors",
                 SR_BACKEND="onnxruntime")  # fmt: skip
    assert done.returncode == 3
    assert "sr-server: " in done.stderr
    assert "Traceback" not in done.stderr


def test_one_server_per_data_directory(tmp_path: Path) -> None:
    with live_server(tmp_path):
        assert_one_sentence(start(tmp_path, "--port", "0"), 2, "SR_DATA_DIR")


def test_sigterm_lets_a_video_finish_and_exits_with_0(tmp_path: Path, data: Path) -> None:
    clip = (data / "demo" / "city_256x256.mp4").read_bytes()
    with live_server(tmp_path) as server:
        wait_ready(server)
        with (
            server.client() as client,
            client.stream("POST", "/upscale?height=256", content=clip) as answer,
        ):
            server.process.terminate()
            body = b"".join(answer.iter_raw())
        assert body[-4:] != b""
        assert server.process.wait(DEADLINE_SECONDS) == 0
        assert not list((tmp_path / "spool").iterdir())
    with live_server(tmp_path) as server, server.client() as client:
        job = client.get(f"/jobs/{answer.headers['X-SR-Job']}").json()
        assert (job["state"], job["frames"]) == ("done", 41)


def test_work_that_never_ends_is_given_the_grace_time_and_no_more(tmp_path: Path) -> None:
    with live_server(tmp_path, SR_STOP_SECONDS="1") as server:
        wait_ready(server)
        (worker,) = workers_of(server.process.pid)
        worker.suspend()
        with ThreadPoolExecutor(1) as threads, server.client() as client:
            ask = threads.submit(client.post, "/upscale", content=png())
            wait_until(lambda: any((tmp_path / "spool").iterdir()), "the request")
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began >= 0.9
            answer = ask.result()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
        assert not worker.is_running()


def test_a_video_that_fails_after_its_200_ends_abnormally(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", Clip(frames=400)).read_bytes()
    with gated_server(tmp_path, 100) as gate:
        server = gate.server
        with (
            server.client() as client,
            client.stream("POST", "/upscale", content=clip) as answer,
        ):
            assert answer.status_code == 200
            gate.kill_worker()
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        with server.client() as client:
            job = client.get(f"/jobs/{answer.headers['X-SR-Job']}").json()
            assert (job["state"], job["error"]["code"]) == ("failed", "engine_failed")
            wait_ready(server)
            assert client.post("/upscale", content=png()).status_code == 200


def test_a_public_address_makes_one_key_prints_it_once_and_needs_it(tmp_path: Path) -> None:
    with live_server(tmp_path, "--host", "0.0.0.0") as server, server.client() as client:
        key = server.key
        assert key is not None
        assert key not in server.log()
        stored = (tmp_path / "api_keys").read_text()
        assert key not in stored
        assert hash_key(key) in stored
        assert stat.S_IMODE((tmp_path / "api_keys").stat().st_mode) == 0o600
        assert client.get("/jobs").status_code == 401
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
            assert client.get("/jobs", headers=headers).status_code == 200
        assert client.get("/").status_code == 200
    with live_server(tmp_path, "--host", "0.0.0.0") as server:
        assert server.key is None


def test_insecure_lets_everybody_in(tmp_path: Path) -> None:
    with live_server(tmp_path, "--host", "0.0.0.0", "--insecure") as server:
        assert server.key is None
        with server.client() as client:
            assert client.get("/jobs").status_code == 200


def test_add_key_prints_a_key_that_opens_the_server(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    made = [start(tmp_path, "--add-key", name, SR_API_KEYS_FILE=str(keys)) for name in ("a", "b")]
    assert all(re.fullmatch(r"\S{43}\n", done.stdout) for done in made)
    with live_server(tmp_path, SR_API_KEYS_FILE=str(keys)) as server, server.client() as client:
        for done in made:
            headers = {"Authorization": f"Bearer {done.stdout.strip()}"}
            assert client.get("/jobs", headers=headers).status_code == 200
        assert client.get("/jobs").status_code == 401


def test_the_server_stays_alive_while_its_workers_are_killed_again_and_again(
    tmp_path: Path,
) -> None:
    with live_server(tmp_path) as server, server.client() as client:
        wait_ready(server)
        for _ in range(3):
            kill_workers(server.process.pid)
            assert client.get("/livez").status_code == 200
            wait_until(
                lambda: client.post("/upscale", content=png()).status_code == 200,
                "a picture after a kill",
            )
