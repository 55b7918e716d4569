"""In and out of a Ray cluster, leaving the process as it was."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import EngineError

LOCAL = "local"
"""The address of a cluster that is only this machine and ends with its user."""
_REACHABLE_SECONDS = 5.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour to come; without it Ray warns
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
"""Environment of every process that uses Ray."""


class ClusterError(EngineError):
    """The cluster cannot do it; the message is one sentence."""


def import_ray() -> Any:
    """Ray. Raises ClusterError where it is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ClusterError(
            "A cluster needs Ray, which is not installed here; pip install 'sr-server[cluster]'."
        ) from None


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to ``address``: ``auto``, ``HOST:PORT`` or ``local``.

    A process that is connected already (a Serve replica) stays so.

    Raises:
        ClusterError: nothing answers there, or Ray is not installed.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    _check_reachable(address)
    with _own_signals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray and gRPC say about themselves while starting
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address == LOCAL:
            options |= {"address": "local", "include_dashboard": False}
        else:
            options |= {"address": address}
        try:
            ray.init(**options)
        # Ray raises bare ones, too, for a node that does not start in time.
        except Exception as error:
            ray.shutdown()
            raise _nobody(address, " ".join(str(error).strip().splitlines()[:1])) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises ClusterError where nobody listens, which Ray would look at for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHABLE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, str(error)) from None


def _nobody(address: str, why: str) -> ClusterError:
    return ClusterError(
        f"There is no Ray cluster at {address!r} ({why[:200]}); start one with `ray start --head`."
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """``ray.init`` takes SIGTERM away from its process; this gives it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
