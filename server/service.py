"""Everything that one server owns, opened and closed together; routes get it from the app.

No module-level state: two services can live in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from server.access import KeyRing, LinkSigner, open_key_ring
from server.errors import ApiError
from server.jobs.admission import Admission
from server.jobs.runner import JobRunner
from server.jobs.store import JobStore
from server.limits import Arrivals, RateLimiter
from server.live.registry import LiveStreams
from server.logs import log_event
from server.metrics import Metrics
from server.playback import Playback
from server.settings import CPU_BACKEND, Settings, SettingsError
from server.workers.pool import PoolOptions, WorkerPool
from server.workers.ticket import KINDS, Ticket, TicketCancelled

REAL_TIME_FPS, LATEST_FRAME_MS = 60, 33.0
_CALIBRATION_SECONDS = 120.0
"""It stops by itself after ten; this ends one that hangs."""

_DATABASE = "jobs.sqlite3"
WORKER_STATES = ("starting", "building", "idle", "busy", "restarting", "unusable")

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "server.workers")


def visible_devices(chosen: str | None, files: Iterable[Path]) -> list[str]:
    """Names of the NVIDIA GPUs that may be used; no driver is called.

    Args:
        chosen: ``CUDA_VISIBLE_DEVICES``: numbers or ids; what follows an empty or a negative one
            does not count, as in CUDA. None is all.
        files: of the device directory.
    """
    if chosen is None:
        numbers = (path.name.removeprefix("nvidia") for path in files)
        return sorted((each for each in numbers if each.isdigit()), key=int)
    names = (name.strip() for name in chosen.split(","))
    return list(takewhile(lambda name: name and not name.startswith("-"), names))


def worker_configs(settings: Settings) -> list[dict[str, Any]]:
    """What each worker is started with: one per device and one more, unless a number was asked."""
    devices = visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), Path("/dev").glob("nvidia*"))
    count = settings.workers or max(1, len(devices)) + 1
    return [
        {
            "backend": settings.backend,
            "model": settings.model,
            "threads": settings.threads,
            "cache_dir": None if settings.cache_dir is None else str(settings.cache_dir),
            "device": devices[index % len(devices)] if len(devices) > 1 else None,
            "segment_seconds": settings.segment_seconds,
            "cluster": settings.cluster,
            "limits": settings.limits.model_dump(),
        }
        for index in range(count)
    ]


def is_real_time(calibration: dict[str, Any]) -> bool:
    """60 frames a second with 99 of 100 frames within two of them, at the size it was made at."""
    late = float(calibration["frame_ms"]["p99"]) > LATEST_FRAME_MS
    return float(calibration["fps"]) >= REAL_TIME_FPS and not late


def real_time_verdict(calibration: dict[str, Any]) -> str:
    """``is_real_time`` for people, with what it was judged by."""
    held = "real time" if is_real_time(calibration) else "not real time"
    return f"{held} ({REAL_TIME_FPS} fps, p99 {LATEST_FRAME_MS:g} ms)"


@dataclass(slots=True)
class Measurement:
    """The calibration: a real run of this engine on this machine."""

    state: str = "off"
    """``off``, ``waiting``, ``running``, ``done`` or ``failed``."""
    result: dict[str, Any] | None = None


class Service:
    """The parts of a running server.

    Args:
        settings: see there.
        worker_command: starts a worker; tests give their own.

    Raises:
        SettingsError: the data directory or the key file cannot be used.
    """

    def __init__(self, settings: Settings, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
        self.settings = settings
        self.limits = settings.limits
        self.metrics = Metrics()
        self._worker_command = worker_command
        self._lock = _claim_data_dir(settings.data_dir)
        self.spool = settings.data_dir / "spool"
        self.jobs_root = settings.data_dir / "jobs"
        self.keys: KeyRing
        self.made_key: str | None
        try:
            shutil.rmtree(self.spool, ignore_errors=True)
            for folder in (self.spool, self.jobs_root):
                folder.mkdir(mode=0o700, exist_ok=True)
            JobStore(settings.data_dir / _DATABASE).close()
            self.keys, self.made_key = open_key_ring(settings)
            self.signer = LinkSigner.open(settings.data_dir)
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock)
            raise SettingsError(_data_problem(settings.data_dir, error)) from None
        except SettingsError:
            os.close(self._lock)
            raise
        self.rate = RateLimiter(self.limits.requests_per_second, self.limits.request_burst)
        self.job_rate = RateLimiter(self.limits.jobs_per_hour / 3600, self.limits.jobs_per_hour)
        self.live = LiveStreams(self.limits, self.metrics)
        self.arrivals = Arrivals()
        self.measurement = Measurement()
        self.is_stopping = False
        self.hopeless = asyncio.Event()
        """Set when no engine can ever run here."""
        self.pool: WorkerPool
        self.store: JobStore
        self.admission: Admission
        self.jobs: JobRunner
        self.playback: Playback
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def limits_callers(self) -> bool:
        """Whether rates are limited: there is nobody to protect from on an open loopback."""
        return not (self.keys.is_open and self.settings.is_loopback)

    def _count_new_job(self, owner: str) -> None:
        if self.limits_callers:
            self.job_rate.take(owner)

    async def start(self) -> None:
        """Starts workers and jobs."""
        queues = {"picture": self.limits.picture_queue, "video": self.limits.video_queue}
        options = PoolOptions(
            command=self._worker_command,
            configs=worker_configs(self.settings),
            recycle_tasks=self.settings.recycle_tasks,
            queue_limits=queues,  # type: ignore[arg-type]  # dict keys are not inferred as literals
        )
        self.pool = WorkerPool(options, self._on_pool_change, self.metrics.worker_restarts.inc)
        self.store = await asyncio.to_thread(JobStore, self.settings.data_dir / _DATABASE)
        self.admission = Admission(self.store, self.limits, self._count_new_job)
        self.playback = Playback(
            self.jobs_root, self.limits.playback_keep_seconds, self.settings.segment_seconds
        )
        self.jobs = JobRunner(self.store, self.jobs_root, self.pool, self.limits, self.metrics)
        self.pool.start()
        self._tasks.append(asyncio.create_task(self.metrics.watch_loop_lag()))
        self._tasks.append(asyncio.create_task(self.playback.clean_for_ever()))
        if self.settings.calibration_size is not None:
            self.measurement.state = "waiting"
            self._tasks.append(
                asyncio.create_task(self._calibrate(*self.settings.calibration_size))
            )
        await self.jobs.start()

    def begin_stop(self) -> None:
        """Not ready from now on, and nothing new is taken; watchers of jobs are let go."""
        self.is_stopping = True
        self.live.begin_stop()
        self.jobs.wake_watchers()

    async def stop(self) -> None:
        """Stops everything; jobs wait for the next start."""
        self.begin_stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.jobs.stop()
        await self.pool.stop()
        await asyncio.to_thread(self.store.close)
        os.close(self._lock)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """``start`` and, however the body ends, ``stop``."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    def refuse_when_stopping(self) -> None:
        """Raises ApiError 503 once the server has been told to stop."""
        if self.is_stopping:
            raise ApiError("stopping", "the server is stopping; try again in a moment")

    def new_spool_path(self) -> Path:
        """A name in the spool that nobody uses."""
        return self.spool / secrets.token_hex(12)

    @contextmanager
    def spooled(self, *suffixes: str) -> Iterator[tuple[Path, ...]]:
        """Paths in the spool; whatever is there at the end is removed."""
        base = self.new_spool_path()
        paths = tuple(base.with_suffix(f".{suffix}") for suffix in suffixes)
        try:
            yield paths
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    @property
    def engine(self) -> dict[str, Any]:
        """Who runs the frames: of a worker that is ready, else empty."""
        slots = [slot for slot in self.pool.slots if slot.engine and not slot.is_stand_in]
        return slots[0].engine if slots else {}

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether to send work here, and what ``/readyz`` says about it."""
        measured = self.measurement
        fps = (measured.result or {}).get("fps")
        wanted = self.settings.require_fps
        ready = self.pool.is_ready and not self.is_stopping
        problem = self.pool.problem
        if wanted:
            ready = ready and fps is not None and fps >= wanted
            if fps is not None and fps < wanted:
                problem = f"SR_REQUIRE_FPS={wanted:g}, but the calibration measured {fps:.1f}"
        state = "stopping" if self.is_stopping else "ready" if ready else "starting"
        stand_in = self.pool.stand_in
        builds = [slot.build for slot in self.pool.slots if slot.build]
        return ready, {
            "status": "failed" if problem and not ready else state,
            "problem": problem,
            "backend": self.engine.get("name"),
            "model": self.engine.get("model"),
            "device": self.engine.get("device"),
            "meanwhile": stand_in.engine.get("name") if stand_in else None,
            "build": builds[0] if builds else None,
            "workers": [slot.state for slot in self.pool.slots],
            "sandbox": next((slot.sandbox for slot in self.pool.slots if slot.sandbox), None),
            "calibration": {"state": measured.state, **(measured.result or {})},
        }

    async def _calibrate(self, height: int, width: int) -> None:
        """Measures this engine on this machine, before any job is taken up."""

        def on_event(_: dict[str, Any]) -> None:
            self.measurement.state = "running"

        task = {"kind": "calibrate", "height": height, "width": width}
        ticket = Ticket("job", task, on_event=on_event, total_seconds=_CALIBRATION_SECONDS)
        self.pool.submit(ticket)
        try:
            result = await ticket.outcome
        except (ApiError, TicketCancelled) as error:
            self.measurement.state = "failed"
            log_event("calibration_failed", problem=str(error))
            return
        self.measurement.state = "done"
        self.measurement.result = {**result, "verdict": real_time_verdict(result)}
        self.metrics.set_calibration(result, is_real_time=is_real_time(result))
        log_event("calibrated", **self.measurement.result)

    def _stand_in_while_building(self) -> None:
        """With ``auto`` only: the CPU serves pictures while a plan is built."""
        building = any(slot.state == "building" for slot in self.pool.slots)
        if self.pool.is_ready:
            self.pool.retire_stand_in()
        elif building and self.settings.backend == "auto" and self.pool.stand_in is None:
            config = worker_configs(self.settings)[0]
            self.pool.add_stand_in({**config, "backend": CPU_BACKEND, "device": None})

    def _on_pool_change(self) -> None:
        if self.pool.problem:
            self.hopeless.set()
        self._stand_in_while_building()

    def expose_metrics(self) -> bytes:
        """The text that Prometheus scrapes; what the pool knows is looked up now, not counted."""
        for kind in KINDS:
            self.metrics.queued.labels(kind).set(self.pool.queued(kind))
        states = [slot.state for slot in self.pool.slots]
        for state in WORKER_STATES:
            self.metrics.workers.labels(state).set(states.count(state))
        self._show_gpu_memory()
        return self.metrics.expose()

    def _show_gpu_memory(self) -> None:
        gauge = self.metrics.gpu_memory_bytes
        gauge.clear()
        alive = [(slot.worker, slot.config) for slot in self.pool.slots if slot.worker]
        for worker, config in sorted(alive, key=lambda each: each[0].vitals_at):  # the newest last
            device = config.get("device") or "0"
            for kind, value in worker.vitals.get("gpu_memory", {}).items():
                gauge.labels(device, kind).set(value)


def _data_problem(path: Path, error: OSError | sqlite3.Error) -> str:
    """What is wrong inside the data directory, e.g. files of another user or a damaged database."""
    if isinstance(error, OSError):
        what = f"{Path(error.filename or path).name}: {error.strerror or error}"
    else:
        what = f"{_DATABASE}: {error}"
    return f"the data directory {path} cannot be used ({what}); repair it or set SR_DATA_DIR."


def _claim_data_dir(path: Path) -> int:
    """Makes the data directory and takes its lock: one server per directory."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(
            f"the data directory {path} cannot be written ({error.strerror}); set SR_DATA_DIR."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError(
            f"another server uses the data directory {path}; set SR_DATA_DIR to another one."
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} {time.time():.0f}\n".encode())
    return descriptor
