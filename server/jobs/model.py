"""A job as it is stored and as callers see it."""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
FINISHED: tuple[JobState, ...] = ("done", "failed", "cancelled")

JobKind = Literal["job", "stream"]
"""``job`` was queued and keeps its result; ``stream`` is a ``POST /upscale`` of a video."""


STOPPED_STREAM = "the server stopped while this was streamed"
"""Why a stream has failed that was cut off."""


def new_job_id() -> str:
    """128 random bits: nobody guesses somebody else's job."""
    return secrets.token_hex(16)


@dataclass(slots=True)
class Job:
    """One row. Times are seconds since 1970, sizes bytes."""

    id: str
    owner: str
    kind: JobKind
    state: JobState
    created_at: float
    options: dict[str, Any] = field(default_factory=dict)
    """The query, as far as it was given."""
    input_bytes: int = 0
    input_sha256: str = ""
    input_name: str | None = None
    """What the sender calls it, cleaned; only shown."""
    idempotency_key: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    frames: int = 0
    """Frames that are in finished segments or in the result."""
    frames_total: int | None = None
    """Frames that the container announces; None where it says nothing."""
    result_name: str | None = None
    """File of the result inside the job's folder."""
    result_bytes: int = 0
    result_type: str | None = None
    manifest: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its state is final."""
        return self.state in FINISHED


@dataclass(slots=True)
class Progress:
    """What is known of a running job between two rows."""

    frames: int = 0
    frames_total: int | None = None
    fps: float | None = None
    eta_seconds: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    """Median time of each stage of a frame."""
    has_preview: bool = False
    is_waiting: bool = False
    """Whether no worker has begun with it yet."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Where the bytes of a job lie."""

    path: Path

    @property
    def input(self) -> Path:
        """The upload, under no name of the user's."""
        return self.path / "input"

    @property
    def segments(self) -> Path:
        """Finished pieces of the result and their ledger."""
        return self.path / "segments"

    @property
    def preview(self) -> Path:
        """The newest frame as JPEG."""
        return self.path / "preview.jpg"

    def remove_pieces(self) -> None:
        """Removes segments and what a worker that was killed had not finished; errors are ignored.

        To be called when nobody works on the job any more.
        """
        shutil.rmtree(self.segments, ignore_errors=True)
        with suppress(OSError):
            for unfinished in self.path.glob(".*.part"):
                unfinished.unlink()
