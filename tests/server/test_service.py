"""What a service does around its workers: measuring, standing in, refusing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.selection import cpu_backend_name
from server.service import Service, is_real_time, real_time_verdict, visible_devices, worker_configs
from server.settings import CPU_BACKEND, Limits, Settings, SettingsError, load_settings
from server.workers.tasks import EngineTasks
from server.workers.ticket import Ticket
from tests.server.live import live_server, wait_ready, wait_until

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_cpu_serves_pictures_while_a_plan_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    settings = Settings(
        backend="auto", calibrate="off", workers=1, data_dir=tmp_path / "data", cache_dir=gate
    )

    async def test() -> None:
        service = Service(settings, FAKE)
        async with service.running():
            await until(lambda: service.pool.stand_in is not None)
            ready, body = service.readiness()
            assert not ready
            assert body["build"] == {"what": "a plan", "fraction": 0.5}
            ticket = Ticket("picture", {"kind": "echo", "say": 1})
            await service.pool.run(ticket, 20)
            assert ticket.engine["name"] == CPU_BACKEND
            assert service.readiness()[1]["meanwhile"] == CPU_BACKEND
            job = Ticket("job", {"kind": "echo", "say": 2})
            service.pool.submit(job)
            assert not job.started.is_set()
            await asyncio.to_thread(gate.write_bytes, b"built")
            await job.outcome
            assert job.engine["name"] == "auto"
            assert service.pool.stand_in is None
            assert service.readiness()[0]

    asyncio.run(test())


def test_the_cpu_that_serves_meanwhile_is_the_one_that_auto_takes(tmp_path: Path) -> None:
    config = worker_configs(Settings(data_dir=tmp_path, threads=1))[0]
    with EngineTasks({**config, "backend": CPU_BACKEND}, lambda *_: None) as tasks:
        assert tasks.vitals() == {}
        assert tasks.info()["name"] == cpu_backend_name()


def test_the_calibration_is_published_and_a_speed_can_be_required(tmp_path: Path) -> None:
    settings = {"SR_CALIBRATE": "64x48", "SR_REQUIRE_FPS": "1000000"}
    with live_server(tmp_path, **settings) as server, server.client() as client:

        def measured() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/readyz").json()["calibration"]
            return found

        wait_until(lambda: measured()["state"] == "done", "the calibration")
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "SR_REQUIRE_FPS=" in answer.json()["problem"]
        assert measured()["size"] == "64x48"
        assert measured()["fps"] > 0
        assert measured()["frame_ms"].keys() == {"p50", "p95", "p99"}
        assert {"start", "finish"} <= measured()["stages_ms"].keys()
        assert measured()["format"] == "nv12"
        assert "real time" in measured()["verdict"]
        published = client.get("/model").json()["calibration"]
        assert {name: value for name, value in measured().items() if name != "state"} == published
        metrics = client.get("/metrics").text
        assert f"sr_calibration_fps {measured()['fps']}" in metrics
        held = float("not" not in measured()["verdict"])
        assert f"sr_calibration_real_time {held}" in metrics
        assert 'sr_calibration_stage_seconds{quantile="0.99",stage="finish"}' in metrics
    with live_server(tmp_path, SR_CALIBRATE="64x48", SR_REQUIRE_FPS="0.001") as server:
        wait_ready(server)


@pytest.mark.parametrize(
    ("fps", "p99_ms", "real_time"),
    [(60.0, 33.0, True), (59.99, 16.0, False), (80.0, 33.1, False)],
)
def test_real_time_is_sixty_frames_a_second_and_none_of_them_late(
    fps: float, p99_ms: float, real_time: bool
) -> None:
    calibration = {"fps": fps, "frame_ms": {"p99": p99_ms}}
    assert is_real_time(calibration) == real_time
    assert real_time_verdict(calibration).startswith("not") != real_time


def test_a_required_speed_needs_a_measurement() -> None:
    with pytest.raises(SettingsError, match="SR_CALIBRATE"):
        load_settings(require_fps=60, calibrate="off")


def test_there_is_one_worker_per_device_and_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for devices, workers, expected in (
        ("", 0, [None, None]),
        ("0", 0, [None, None]),
        ("2,GPU-ab", 0, ["2", "GPU-ab", "2"]),
        ("0,1", 2, ["0", "1"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        settings = Settings(workers=workers, limits=Limits())
        assert [config["device"] for config in worker_configs(settings)] == expected


def test_devices_are_those_that_cuda_would_show() -> None:
    files = [Path("/dev") / name for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm")]
    assert visible_devices(None, files) == ["2", "10"]
    assert visible_devices("3, 1", files) == ["3", "1"]
    assert visible_devices("1,-1,0", files) == ["1"]
    assert visible_devices("", files) == []
