"""A job as JSON for callers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.config import JsonDict

from server.errors import ApiError, ErrorDetail
from server.jobs.model import Job, JobKind, JobState, Progress

EXAMPLE: JsonDict = {
    "id": "8d3c2d0f7a5b4e1c9f6a7b8c9d0e1f2a",
    "kind": "job",
    "state": "running",
    "created_at": 1767225600.0,
    "started_at": 1767225601.5,
    "finished_at": None,
    "frames": 240,
    "frames_total": 1800,
    "fps": 61.2,
    "eta_seconds": 25.5,
    "options": {"codec": "libx264"},
    "input_bytes": 734003,
    "input_name": "city.mp4",
    "result_bytes": 0,
    "has_preview": True,
    "manifest": None,
    "error": None,
}
"""A job as ``GET /jobs/{id}`` shows it."""


class JobView(BaseModel):
    """One job."""

    id: str
    kind: JobKind
    state: JobState
    created_at: float
    started_at: float | None
    finished_at: float | None
    frames: int
    frames_total: int | None
    fps: float | None
    eta_seconds: float | None
    options: dict[str, Any]
    input_bytes: int
    input_name: str | None
    result_bytes: int
    has_preview: bool
    manifest: dict[str, Any] | None
    error: ErrorDetail | None

    model_config = {"json_schema_extra": {"example": EXAMPLE}}


class JobList(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobView]


class LinkView(BaseModel):
    """A signed link."""

    url: str
    """Of the result, relative to this server."""
    playlist: str
    """Of the HLS playlist; works from the first finished segment on."""
    expires: int
    """Seconds since 1970."""

    model_config = {
        "json_schema_extra": {
            "example": {
                "url": "/jobs/8d3c2d0f…/result?expires=1767229200&signature=5c1d…",
                "playlist": "/jobs/8d3c2d0f…/playlist.m3u8?expires=1767229200&signature=5c1d…",
                "expires": 1767229200,
            }
        }
    }


def job_view(job: Job, progress: Progress) -> JobView:
    """``job`` with what is known of it right now."""
    error = None
    if job.error is not None:
        kept = ApiError.from_dict(job.error)
        error = ErrorDetail(
            code=kept.code, message=kept.message, limit=kept.limit, actual=kept.actual
        )
    # Claimed, and handed to no worker yet: for whoever asks it waits.
    state = "queued" if job.state == "running" and progress.is_waiting else job.state
    running = state == "running"
    fps = progress.fps if running else (job.manifest or {}).get("fps")
    return JobView(
        id=job.id,
        kind=job.kind,
        state=state,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        frames=progress.frames if running else job.frames,
        frames_total=progress.frames_total if running else job.frames_total,
        fps=fps,
        eta_seconds=progress.eta_seconds if running else None,
        options=job.options,
        input_bytes=job.input_bytes,
        input_name=job.input_name,
        result_bytes=job.result_bytes,
        has_preview=progress.has_preview,
        manifest=job.manifest,
        error=error,
    )
