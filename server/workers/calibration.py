"""How many frames a second this engine makes on this machine: measured, not assumed.

Host frame in to host frame out through the same lanes that videos use. Content differs from frame
to frame, so that nothing can be reused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from engine.backends.base import LaneSpec
from engine.frames import Bytes, Frame
from engine.upscaler import Upscaler
from server.workers.channel import Message
from server.workers.child import TaskContext

MOST_FRAMES, MOST_SECONDS = 60, 10.0
_DISTINCT = 8


def calibrate(upscaler: Upscaler, height: int, width: int, context: TaskContext) -> Message:
    """Runs at most 60 frames or 10 seconds of ``height`` x ``width`` after one to warm up.

    Returns:
        ``fps``, ``frame_ms`` with p50, p95 and p99, ``frames``, ``size`` and who ran them.

    Raises:
        EngineError: the engine failed.
    """
    spec = LaneSpec(height, width)
    until = time.perf_counter() + MOST_SECONDS
    stamps = [time.perf_counter()]
    for _ in upscaler.stream(_frames(height, width, until), spec, copy=False):
        stamps.append(time.perf_counter())
        context.report({})
        context.raise_if_cancelled()
    times_ms = np.diff(stamps)[1:] * 1e3 if len(stamps) > 2 else np.diff(stamps) * 1e3
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    info = upscaler.info
    return {
        "fps": round(1e3 / float(times_ms.mean()), 2),
        "frame_ms": {"p50": round(p50, 2), "p95": round(p95, 2), "p99": round(p99, 2)},
        "frames": len(times_ms),
        "size": f"{width}x{height}",
        "backend": info.name,
        "model": info.model,
        "device": info.device,
    }


def _frames(height: int, width: int, until: float) -> Iterator[Frame]:
    """Smooth pictures with some noise, none like the one before."""
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., np.newaxis]
    noise = random.integers(0, 16, (height, width, 3))
    frames: list[Bytes] = [
        ((ramp * (index + 1) // 4 + noise) % 256).astype(np.uint8) for index in range(_DISTINCT)
    ]
    for index in range(MOST_FRAMES + 1):
        yield frames[index % _DISTINCT]
        if time.perf_counter() > until:
            return
