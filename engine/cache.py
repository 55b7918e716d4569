"""The plan cache: PlanKey -> plan, content-addressed, atomic, one builder per key.

A directory holds ``DIGEST.plan``, ``DIGEST.plan.json`` and ``DIGEST.lock``. The plan is renamed
into place first and its JSON last, so a kill at any moment leaves either a whole pair or something
that :func:`engine.plan.read_plan` refuses. There is no membership test: asking is getting.
Knows nothing of how plans are built or run.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import Self

from filelock import FileLock, Timeout

from engine.errors import PlanError
from engine.plan import Plan, PlanKey, PlanRecord, read_plan, record_path

Notify = Callable[[str], None]
"""Takes one sentence that a person should see."""

OTHERS_WRITE = 0o022


def default_cache_directory() -> Path:
    """``SR_CACHE_DIR``, else ``XDG_CACHE_HOME/sr-server``, else ``~/.cache/sr-server``."""
    if configured := os.environ.get("SR_CACHE_DIR"):
        return Path(configured)
    if cache_home := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache_home) / "sr-server"
    home = Path(os.environ.get("HOME") or tempfile.gettempdir())
    return home / ".cache" / "sr-server"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One plan found in a cache directory."""

    path: Path
    record: PlanRecord | None
    """None where the plan cannot be trusted."""
    problem: str = ""
    """Why it cannot be trusted."""
    size_bytes: int = 0
    modified: float = 0.0
    """Seconds since the epoch."""


class PlanCache:
    """Plans in one directory; many processes may share it.

    Args:
        directory: where plans are written. It must belong to this user (or root) and be writable
            by nobody else, because a plan is executable code.
        notify: told of a plan that was set aside and of a directory that could not be used.
        read_only: a second directory that is searched first and never written.
    """

    def __init__(self, directory: Path, notify: Notify, read_only: Path | None = None) -> None:
        self.directory = directory
        self._notify = notify
        self._read_only = read_only

    @classmethod
    def open(cls, directory: Path | None = None, notify: Notify = lambda message: None) -> Self:
        """Opens ``directory`` (default: :func:`default_cache_directory`), made when missing.

        One that cannot be written is still read; new plans then go to a directory of this user
        under the system's temporary one, and ``notify`` says so.

        Raises:
            PlanError: somebody else owns the directory or may write into it.
        """
        wanted = directory or default_cache_directory()
        if _is_usable(wanted):
            return cls(wanted, notify)
        spare = Path(tempfile.gettempdir()) / f"sr-server-plans-{os.geteuid()}"
        if not _is_usable(spare):
            raise PlanError(
                f"plans can be written neither to {wanted} nor to {spare}: set SR_CACHE_DIR to a "
                "directory of yours"
            )
        notify(f"the plan cache {wanted} cannot be written: new plans go to {spare}")
        return cls(spare, notify, read_only=wanted if wanted.is_dir() else None)

    def path_of(self, key: PlanKey) -> Path:
        """Where the plan of ``key`` is kept."""
        return self.directory / f"{key.digest}.plan"

    def get_or_build(
        self,
        key: PlanKey,
        build: Callable[[], Plan],
        check: Callable[[Plan], None] = lambda plan: None,
    ) -> Plan:
        """The plan of ``key``: the stored one, else the one ``build`` makes.

        Of several processes asking at once one builds and the others wait for it. A stored plan
        that is corrupt, or that ``check`` refuses, is renamed to ``.bad`` and rebuilt once.

        Args:
            key: what is wanted.
            build: makes the plan; its record must hold ``key``.
            check: raises PlanError for a plan that must not be used (it does not deserialise).

        Raises:
            PlanError: the plan cannot be built or written, or ``check`` refuses the new one too.
        """
        if (plan := self._read(key, check, final=False)) is not None:
            return plan
        with self._locked(key):
            if (plan := self._read(key, check, final=True)) is not None:
                return plan
            plan = build()
            if plan.record.key != key:
                raise ValueError("the plan that was built is not the one that was asked for")
            check(plan)
            write_plan(self.path_of(key), plan)
            return plan

    def mark_verified(self, plan: Plan, device: str) -> Plan:
        """Records that ``plan`` passed the gate on ``device``; the plan's bytes stay."""
        verified = Plan(plan.record.as_verified(device), plan.data)
        with self._locked(plan.record.key):
            write_plan(self.path_of(plan.record.key), verified)
        return verified

    def reject(self, plan: Plan, reason: str) -> None:
        """Sets ``plan`` aside as ``.bad``, so that the next asker builds it anew."""
        with self._locked(plan.record.key):
            self._set_aside(self.path_of(plan.record.key), reason)

    def entries(self) -> list[CacheEntry]:
        """Every plan in the directory, oldest first, each one's sha256 checked."""
        found = [_entry(path) for path in self.directory.glob("*.plan")]
        return sorted(found, key=lambda entry: (entry.modified, entry.path))

    def prune(self, older_than_seconds: float = 0.0) -> tuple[int, int]:
        """Deletes plans not touched for that long, rejected plans and left-over temporary files.

        Keys that a process is building at this moment are left alone.

        Returns:
            (files deleted, bytes deleted)
        """
        files, freed = 0, 0
        horizon = time.time() - older_than_seconds
        for digest in sorted({path.name.split(".")[0] for path in self.directory.glob("*.plan*")}):
            with suppress(Timeout), FileLock(self.directory / f"{digest}.lock", timeout=0):
                for path in self.directory.glob(f"{digest}.plan*"):
                    whole = path.suffix in (".plan", ".json")
                    status = path.stat()
                    if not whole or status.st_mtime <= horizon:
                        path.unlink()
                        files, freed = files + 1, freed + status.st_size
        return files, freed

    @contextmanager
    def _locked(self, key: PlanKey) -> Iterator[None]:
        try:
            lock = FileLock(self.directory / f"{key.digest}.lock")
            lock.acquire()
        except OSError as error:
            raise PlanError(
                f"the plan cache {self.directory} cannot be locked ({error})"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _read(self, key: PlanKey, check: Callable[[Plan], None], *, final: bool) -> Plan | None:
        """A stored plan that may be used. Without the lock (``final`` false) nothing is judged:
        another process may be between its two renames."""
        places = [self._read_only, self.directory] if self._read_only else [self.directory]
        for directory in places:
            path = directory / f"{key.digest}.plan"
            if not record_path(path).exists():
                continue
            try:
                plan = read_plan(path)
                if plan.record.key != key:
                    raise PlanError(f"{path.name} was made for another key")
                check(plan)
            except PlanError as error:
                if final and directory == self.directory:
                    self._set_aside(path, str(error))
                continue
            return plan
        return None

    def _set_aside(self, path: Path, reason: str) -> None:
        """The JSON goes first: a plan without one is never loaded."""
        for part in (record_path(path), path):
            with suppress(FileNotFoundError):
                part.replace(part.with_name(part.name + ".bad"))
        _sync_directory(path.parent)
        self._notify(f"a cached plan was set aside and will be built again: {reason}")


def write_plan(path: Path, plan: Plan) -> None:
    """Writes a plan and the JSON beside it: each beside, fsync, rename; the JSON last.

    Raises:
        PlanError: the disk is full or the directory cannot be written.
    """
    try:
        write_whole(path, plan.data)
        write_whole(record_path(path), plan.record.to_json().encode())
        _sync_directory(path.parent)
    except OSError as error:
        raise PlanError(
            f"the plan cannot be written to {path.parent} ({error.strerror or error}): choose a "
            "directory with room for it"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Beside it first, then under its name, so that nobody ever reads half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_usable(directory: Path) -> bool:
    """Makes ``directory`` and tells whether files can be made in it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    status = directory.stat()
    if status.st_uid not in (os.geteuid(), 0) or S_IMODE(status.st_mode) & OTHERS_WRITE:
        raise PlanError(
            f"the plan cache {directory} belongs to user {status.st_uid} with mode "
            f"{S_IMODE(status.st_mode):04o}, and plans are executable code: make it yours with "
            "mode 0700, or set SR_CACHE_DIR"
        )
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _entry(path: Path) -> CacheEntry:
    with suppress(FileNotFoundError):
        status = path.stat()
        try:
            plan = read_plan(path)
        except PlanError as error:
            return CacheEntry(path, None, str(error), status.st_size, status.st_mtime)
        return CacheEntry(path, plan.record, "", status.st_size, status.st_mtime)
    return CacheEntry(path, None, "it was deleted meanwhile")
