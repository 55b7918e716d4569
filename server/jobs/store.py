"""The table of jobs. WAL with synchronous=FULL: what was promised survives a power cut.

All methods block on the disk: call them in a thread. One connection, one lock. Each may raise
ApiError 507 when the disk is full.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from server.errors import ApiError
from server.jobs.model import STOPPED_STREAM, Job

_JSON_FIELDS = frozenset({"options", "manifest", "error"})
_FIELDS = tuple(field.name for field in dataclasses.fields(Job))
_UNFINISHED = "state NOT IN ('done', 'failed', 'cancelled')"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
    created_at REAL NOT NULL, options TEXT NOT NULL, input_bytes INTEGER NOT NULL,
    input_sha256 TEXT NOT NULL, idempotency_key TEXT, started_at REAL, finished_at REAL,
    frames INTEGER NOT NULL, frames_total INTEGER, result_name TEXT,
    result_bytes INTEGER NOT NULL, result_type TEXT, manifest TEXT, error TEXT
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS jobs_once ON jobs (owner, idempotency_key);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created_at);
"""


_LATER_COLUMNS = {"input_name": "TEXT"}
"""What databases of earlier versions lack."""


class JobStore:
    """Jobs on disk.

    Args:
        path: of the database; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)
        known = {row["name"] for row in self._execute("PRAGMA table_info(jobs)")}
        for name in _LATER_COLUMNS.keys() - known:
            self._connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {_LATER_COLUMNS[name]}")

    def close(self) -> None:
        """Closes the database; harmless when called twice."""
        with self._lock:
            self._connection.close()

    def insert(self, job: Job) -> Job:
        """Stores ``job``; returns it, or the earlier job of its owner with the same key."""
        columns = ", ".join(_FIELDS)
        marks = ", ".join("?" * len(_FIELDS))
        try:
            self._execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", _to_row(job))
        except sqlite3.IntegrityError:
            return self._of_key(job.owner, job.idempotency_key)[0]
        return job

    def knows_key(self, owner: str, idempotency_key: str) -> bool:
        """Whether a job of ``owner`` has this key."""
        return bool(self._of_key(owner, idempotency_key))

    def _of_key(self, owner: str, idempotency_key: str | None) -> list[Job]:
        rows = self._execute(
            "SELECT * FROM jobs WHERE owner = ? AND idempotency_key = ?", (owner, idempotency_key)
        )
        return [_from_row(row) for row in rows]

    def update(self, job_id: str, **changes: Any) -> None:
        """Changes some fields of one job, durably; unknown ids are ignored."""
        sets = ", ".join(f"{name} = ?" for name in changes)
        values = [_encode(name, value) for name, value in changes.items()]
        self._execute(f"UPDATE jobs SET {sets} WHERE id = ?", (*values, job_id))

    def finish(self, job_id: str, **changes: Any) -> bool:
        """As ``update``, unless the job has ended already; returns whether it changed."""
        sets = ", ".join(f"{name} = ?" for name in changes)
        values = [_encode(name, value) for name, value in changes.items()]
        rows = self._execute(
            f"UPDATE jobs SET {sets} WHERE id = ? AND {_UNFINISHED} RETURNING 1",
            (*values, job_id),
        )
        return bool(rows)

    def get(self, job_id: str) -> Job | None:
        """The job with this id, whoever owns it."""
        rows = self._execute("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return _from_row(rows[0]) if rows else None

    def newest(self, owner: str, count: int) -> list[Job]:
        """The jobs of ``owner``, newest first."""
        rows = self._execute(
            "SELECT * FROM jobs WHERE owner = ? ORDER BY created_at DESC, rowid DESC LIMIT ?",
            (owner, count),
        )
        return [_from_row(row) for row in rows]

    def claim(self) -> Job | None:
        """Makes the oldest queued job ``running`` and returns it; None when nothing waits."""
        rows = self._execute(
            "UPDATE jobs SET state = 'running' WHERE id = (SELECT id FROM jobs WHERE "
            "state = 'queued' ORDER BY created_at, rowid LIMIT 1) RETURNING *"
        )
        return _from_row(rows[0]) if rows else None

    def unfinished(self, owner: str | None = None) -> int:
        """Queued and running jobs of ``owner``, or of everybody."""
        where = f"SELECT count(*) FROM jobs WHERE kind = 'job' AND {_UNFINISHED}"
        if owner is None:
            return int(self._execute(where)[0][0])
        return int(self._execute(where + " AND owner = ?", (owner,))[0][0])

    def stored_bytes(self, owner: str) -> int:
        """Bytes that the jobs of ``owner`` keep on disk, segments of running ones aside."""
        rows = self._execute(
            "SELECT coalesce(sum(input_bytes + result_bytes), 0) FROM jobs "
            "WHERE owner = ? AND kind = 'job'",
            (owner,),
        )
        return int(rows[0][0])

    def expired(self, before: float) -> list[str]:
        """Ids of jobs that were finished before this time."""
        rows = self._execute("SELECT id FROM jobs WHERE finished_at < ?", (before,))
        return [str(row[0]) for row in rows]

    def delete(self, job_id: str) -> None:
        """Forgets a job."""
        self._execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def ids(self) -> set[str]:
        """All ids."""
        return {str(row[0]) for row in self._execute("SELECT id FROM jobs")}

    def recover(self, now: float) -> int:
        """After a stop or a crash: running jobs wait again, broken streams have failed.

        Returns how many jobs go on.
        """
        error = json.dumps({"code": "stopping", "message": STOPPED_STREAM})
        self._execute(
            "UPDATE jobs SET state = 'failed', finished_at = ?, error = ? "
            f"WHERE kind = 'stream' AND {_UNFINISHED}",
            (now, error),
        )
        rows = self._execute("UPDATE jobs SET state = 'queued' WHERE state = 'running' RETURNING 1")
        return len(rows)

    def _execute(self, statement: str, values: Any = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                cursor = self._connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
                raise ApiError("disk_full", "the disk is full; try again later") from None
            cursor.row_factory = sqlite3.Row
            return list(cursor.fetchall())


def _to_row(job: Job) -> list[Any]:
    return [_encode(name, getattr(job, name)) for name in _FIELDS]


def _encode(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON_FIELDS and value is not None else value


def _from_row(row: sqlite3.Row) -> Job:
    values = dict(zip(row.keys(), tuple(row), strict=True))
    for name in _JSON_FIELDS:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return Job(**values)
