"""The table of jobs: each job once, in order, and nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.errors import ApiError
from server.jobs.model import Job, JobFolder, JobKind, JobState, Progress
from server.jobs.store import JobStore
from server.jobs.view import job_view


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path / "jobs.sqlite3")
    yield opened
    opened.close()


def make_job(
    name: str,
    state: JobState = "queued",
    kind: JobKind = "job",
    owner: str = "a",
    key: str | None = None,
) -> Job:
    return Job(
        id=name,
        owner=owner,
        kind=kind,
        state=state,
        created_at=float(len(name)),
        options={"size": [1, 2]},
        input_bytes=7,
        idempotency_key=key,
    )


def test_a_job_comes_back_as_it_was_stored_by_an_earlier_process(tmp_path: Path) -> None:
    first = JobStore(tmp_path / "jobs.sqlite3")
    first.insert(make_job("x"))
    first.update("x", manifest={"frames_in": 3}, frames=3)
    first.close()
    second = JobStore(tmp_path / "jobs.sqlite3")
    job = second.get("x")
    second.close()
    assert job is not None
    assert (job.options, job.manifest, job.frames) == ({"size": [1, 2]}, {"frames_in": 3}, 3)


def test_jobs_are_claimed_oldest_first_and_once(store: JobStore) -> None:
    for name in ("aaa", "a", "aa"):
        store.insert(make_job(name))
    claimed = [store.claim() for _ in range(4)]
    assert [job.id if job else None for job in claimed] == ["a", "aa", "aaa", None]
    assert all(job.state == "running" for job in claimed if job)


def test_a_key_belongs_to_one_job_of_one_owner(store: JobStore) -> None:
    assert store.insert(make_job("x", key="k")).id == "x"
    assert store.insert(make_job("y", key="k")).id == "x"
    assert store.insert(make_job("z", key="k", owner="b")).id == "z"
    assert store.ids() == {"x", "z"}


def test_a_final_state_is_final(store: JobStore) -> None:
    store.insert(make_job("x"))
    assert store.finish("x", state="cancelled", finished_at=1.0)
    assert not store.finish("x", state="done", finished_at=2.0)
    job = store.get("x")
    assert job is not None
    assert job.state == "cancelled"


def test_after_a_crash_jobs_wait_again_and_streams_have_failed(store: JobStore) -> None:
    store.insert(make_job("job", "running"))
    store.insert(make_job("stream", "running", "stream"))
    store.insert(make_job("finished", "done"))
    assert store.recover(now=9.0) == 1
    states = {job.id: job.state for job in store.newest("a", 10)}
    assert states == {"job": "queued", "stream": "failed", "finished": "done"}
    stream = store.get("stream")
    assert stream is not None
    error = job_view(stream, Progress()).error
    assert error is not None
    assert error.code == "stopping"


def test_counts_are_per_owner(store: JobStore) -> None:
    store.insert(make_job("x"))
    store.insert(make_job("y", "done"))
    store.insert(make_job("z", owner="b"))
    store.insert(make_job("s", "running", "stream"))
    assert (store.unfinished(), store.unfinished("a"), store.unfinished("c")) == (2, 1, 0)
    assert store.stored_bytes("a") == 14
    assert [job.id for job in store.newest("b", 5)] == ["z"]


def test_only_finished_jobs_expire(store: JobStore) -> None:
    store.insert(make_job("old"))
    store.insert(make_job("new"))
    store.insert(make_job("waiting"))
    store.finish("old", state="done", finished_at=10.0)
    store.finish("new", state="done", finished_at=20.0)
    assert store.expired(before=15.0) == ["old"]
    store.delete("old")
    assert store.get("old") is None


def test_a_full_disk_is_507_and_nothing_is_half_written(store: JobStore) -> None:
    store.insert(make_job("x"))
    store._connection.execute("PRAGMA max_page_count = 1")  # as small as it can be made
    big = make_job("y")
    big.options = {"text": "x" * 10_000_000}
    with pytest.raises(ApiError) as full:
        store.insert(big)
    assert full.value.status == 507
    assert store.ids() == {"x"}


def test_what_killed_workers_left_goes_with_the_segments(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.segments.mkdir()
    (folder.segments / "segment-00000.mkv").touch()
    for name in ("input", "result.mp4", "preview.jpg", ".result.mp4.1f.part", ".preview.jpg.part"):
        (tmp_path / name).touch()
    folder.remove_pieces()
    assert {path.name for path in tmp_path.iterdir()} == {"input", "result.mp4", "preview.jpg"}
    JobFolder(tmp_path / "gone").remove_pieces()
