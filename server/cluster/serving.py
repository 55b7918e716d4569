"""The service as two Ray Serve applications around the app of ``sr-server``.

``frames`` (everything but jobs) is as many replicas as the load asks for, each with its own engine.
``jobs`` is one replica, because jobs live on its disk; with ``SR_CLUSTER=auto`` it spreads each
video over the whole cluster. Start them with, for example::

    serve run server.cluster.serving:frames gpus=1 max_replicas=8

or by the files in ``deploy/kuberay``. Settings are the ``SR_…`` variables of the nodes.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.app import create_app
from server.cluster.connection import ClusterError, import_ray
from server.service import Service
from server.settings import Settings, load_settings

JOBS_PREFIX = "/jobs"
_READY_POLL_SECONDS = 0.2


class FramesArguments(BaseModel):
    """What ``serve run …:frames NAME=VALUE`` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: float = Field(default=1, ge=0)
    """Of one replica; 0 runs on CPUs."""
    cpus: float = Field(default=1, gt=0)
    """Of one replica."""
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=8, ge=1)
    target_requests: float = Field(default=2, gt=0)
    """Requests, running or waiting, per replica: more add one, fewer take one away."""


class JobsArguments(BaseModel):
    """What ``serve run …:jobs NAME=VALUE`` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: float = Field(default=0, ge=0)
    cpus: float = Field(default=1, gt=0)
    resource: str | None = None
    """A custom resource of Ray that only the node with ``data_dir`` has."""
    data_dir: Path | None = None
    """On a disk that outlives the replica; by default ``SR_DATA_DIR``."""


class Replica:
    """One replica of either application; Ray Serve calls every method.

    Args:
        data_dir: where it keeps its state; None is a folder that goes with it.
        jobs: whether it is the one that has the jobs.
    """

    def __init__(self, data_dir: Path | None, *, jobs: bool) -> None:
        self._own = None if jobs else Path(tempfile.mkdtemp(prefix="sr-replica-"))
        self._settings = replica_settings(self._own or data_dir)
        self._service: Service | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app = create_app(self._settings)
        self._service = app.state.service
        return AsServed(app, app.state.service)

    async def check_health(self) -> None:
        """Raises when ``/readyz`` would not say 200: Ray Serve then replaces the replica."""
        assert self._service is not None
        ready, facts = self._service.readiness()
        if not ready:
            raise ClusterError(
                f"This replica is not ready ({facts['problem'] or facts['status']})."
            )

    def __del__(self) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


class AsServed:
    """The app as Ray Serve has to see it.

    It has started when its engine is ready, so that no request waits for a plan to be built; and
    it is asked for whole paths, although Ray Serve takes the prefix of an application for a mount.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] != "lifespan":
            await self._app({**scope, "root_path": ""}, receive, send)
            return

        async def send_when_ready(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                problem = await self._wait_ready()
                if problem is not None:
                    message = {"type": "lifespan.startup.failed", "message": problem}
            await send(message)

        await self._app(scope, receive, send_when_ready)

    async def _wait_ready(self) -> str | None:
        while True:
            ready, facts = self._service.readiness()
            if ready:
                return None
            if facts["status"] == "failed":
                return str(facts["problem"])
            await asyncio.sleep(_READY_POLL_SECONDS)


def replica_settings(data_dir: Path | None) -> Settings:
    """The settings of the node, for a replica that others than this machine can reach.

    Raises:
        SettingsError: a variable cannot be used.
        ClusterError: every replica would make a key of its own.
    """
    settings = load_settings(host="0.0.0.0", data_dir=data_dir)
    if settings.api_keys_file is None and not settings.insecure:
        raise ClusterError(
            "Replicas must share their keys: set SR_API_KEYS_FILE to a file that all nodes have, "
            "or SR_INSECURE=1 behind a gateway that checks callers."
        )
    return settings


def frames(arguments: FramesArguments) -> Any:
    """The application for pictures and streamed videos, at the prefix ``/``."""
    scaling = {
        "min_replicas": arguments.min_replicas,
        "max_replicas": arguments.max_replicas,
        "target_ongoing_requests": arguments.target_requests,
    }
    deployment = _deployment(arguments.gpus, arguments.cpus).options(
        name="frames", autoscaling_config=scaling
    )
    return deployment.bind(None, jobs=False)


def jobs(arguments: JobsArguments) -> Any:
    """The application for jobs, at the prefix ``/jobs``."""
    pinned = {} if arguments.resource is None else {arguments.resource: 1e-3}
    deployment = _deployment(arguments.gpus, arguments.cpus, pinned).options(
        name="jobs", num_replicas=1
    )
    return deployment.bind(arguments.data_dir, jobs=True)


def _deployment(gpus: float, cpus: float, resources: dict[str, float] | None = None) -> Any:
    import_ray()
    serve = importlib.import_module("ray.serve")
    return serve.deployment(serve.ingress()(Replica)).options(
        ray_actor_options={"num_gpus": gpus, "num_cpus": cpus, "resources": resources or {}},
        # Above what a replica works at by itself, so that its own limits answer, not Ray's queue.
        max_ongoing_requests=100,
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=60,
    )
