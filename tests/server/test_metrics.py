"""Times of stages, from a worker's frames to the histogram that Prometheus scrapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.media.timing import BUCKETS_MS, bucket_name, merged, percentiles
from server.metrics import Metrics
from tests.server.test_limits import CLIP, HANGING, app, check, until

TIMES = st.lists(st.floats(0, 9000, allow_nan=False), max_size=30)


@given(TIMES, TIMES)
def test_counts_of_parts_add_up_to_the_counts_of_the_whole(
    one: list[float], other: list[float]
) -> None:
    whole = percentiles(one + other)
    added = merged([{"decode": percentiles(one)}, {"decode": percentiles(other)}])["decode"]
    for name in ("frames", *map(bucket_name, BUCKETS_MS)):
        assert added[name] == whole[name]
    assert added["total_ms"] == pytest.approx(whole["total_ms"], abs=0.01)


@given(TIMES)
def test_percentiles_are_in_order_and_within_the_values(times: list[float]) -> None:
    found = percentiles(times)
    assert found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert found["p99_ms"] <= max(times, default=0.0) + 0.001


def test_every_frame_of_a_stage_is_in_its_histogram() -> None:
    metrics = Metrics()
    metrics.stages.add_times("job", {"encode": percentiles([0.5, 3.0, 40.0, 9000.0])})
    metrics.stages.add_times("job", {"encode": percentiles([2.0])})
    metrics.stages.observe("picture", {"encode": 5.0})
    text = metrics.expose().decode()
    for line in (
        'sr_stage_seconds_bucket{kind="job",le="0.001",stage="encode"} 1.0',
        'sr_stage_seconds_bucket{kind="job",le="0.002",stage="encode"} 2.0',
        'sr_stage_seconds_bucket{kind="job",le="0.066",stage="encode"} 4.0',
        'sr_stage_seconds_bucket{kind="job",le="+Inf",stage="encode"} 5.0',
        'sr_stage_seconds_count{kind="job",stage="encode"} 5.0',
        'sr_stage_seconds_sum{kind="job",stage="encode"} 9.0455',
        'sr_stage_seconds_count{kind="picture",stage="encode"} 1.0',
    ):
        assert line in text


def test_frames_of_a_job_are_counted_while_it_runs_and_stay_when_it_is_cancelled(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with app(tmp_path, worker=HANGING) as (client, service):
            job_id = (await client.post("/jobs", content=CLIP)).json()["id"]
            await until(lambda: b'sr_frames_total{kind="job"} 7.0\n' in service.expose_metrics())
            assert (await client.get(f"/jobs/{job_id}")).json()["state"] == "running"
        async with app(tmp_path, worker=HANGING) as (client, service):  # its first three are old
            await until(lambda: b'sr_frames_total{kind="job"} 4.0\n' in service.expose_metrics())
            stopped = await client.post(f"/jobs/{job_id}/cancel")
            assert stopped.json()["state"] == "cancelled"
            assert b'sr_frames_total{kind="job"} 4.0\n' in service.expose_metrics()

    check(test)


def test_the_memory_of_a_gpu_is_shown_as_long_as_a_worker_knows_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path / "cpu") as (_, service):  # no worker is ever ready
            assert b"sr_gpu_memory_bytes{" not in service.expose_metrics()
        async with app(tmp_path / "gpu", worker=HANGING) as (_, service):
            await until(lambda: service.pool.is_ready)
            text = service.expose_metrics()
            assert b'sr_gpu_memory_bytes{device="0",kind="used"} 3.0\n' in text
            assert b'sr_gpu_memory_bytes{device="0",kind="total"} 16.0\n' in text
            worker = service.pool.slots[0].worker
            assert worker is not None
            worker.vitals = {}
            assert b"sr_gpu_memory_bytes{" not in service.expose_metrics()

    check(test)
