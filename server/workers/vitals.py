"""How a worker is, beside what it makes: what HTTP shows of it in ``/metrics``."""

from __future__ import annotations

from engine.errors import EngineFault
from engine.upscaler import Upscaler
from server.workers.channel import Message


def vitals_of(upscaler: Upscaler) -> Message:
    """``gpu_memory``: bytes ``used`` and ``total`` of the device; nothing on a CPU."""
    try:
        use = upscaler.memory_use()
    except EngineFault:  # the next frame says so to whom it concerns
        return {}
    return {"gpu_memory": {"used": use.used_bytes, "total": use.total_bytes}} if use else {}
