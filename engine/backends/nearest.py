"""Every pixel repeated 4x4: the baseline, and a backend that any machine can run at once.

It works in ``start``, so that a lane behaves like any other without a thread.
"""

from __future__ import annotations

import numpy as np

from engine.backends.base import BackendInfo, Lane, LaneSpec
from engine.closing import Closing
from engine.contract import SCALE
from engine.errors import EngineFault
from engine.frames import Bytes, Frame, Nv12, check_frame


def repeat(plane: Bytes, times: int = SCALE) -> Bytes:
    """(H, W, ...) -> (H*times, W*times, ...) uint8, a new array."""
    return np.ascontiguousarray(plane.repeat(times, axis=0).repeat(times, axis=1))


def enlarge(frame: Frame) -> Frame:
    """The frame with every pixel repeated 4x4; of an odd nv12 size, chroma is cropped to luma."""
    if not isinstance(frame, Nv12):
        return repeat(frame)
    height, width = frame.y.shape
    chroma = repeat(frame.uv)[: 2 * height, : 2 * width]
    return Nv12(repeat(frame.y), np.ascontiguousarray(chroma))


class NearestLane:
    """A lane whose work is done when ``start`` returns."""

    def __init__(self, spec: LaneSpec) -> None:
        self._spec = spec
        self._result: Frame | None = None

    def start(self, frame: Frame) -> None:
        """Enlarges ``frame``. Raises ContractError when it does not fit the lane."""
        check_frame(frame, self._spec.format, self._spec.height, self._spec.width)
        self._result = enlarge(frame)

    def finish(self) -> Frame:
        """The enlarged frame. Raises EngineFault when nothing was started."""
        if self._result is None:
            raise EngineFault("the lane was asked for a frame that was never started")
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        """Drops the frame in flight."""
        self._result = None


class NearestBackend(Closing):
    """Repetition as a backend."""

    @property
    def info(self) -> BackendInfo:
        """Name, NumPy's version and the device."""
        return BackendInfo(
            "nearest", np.__version__, "CPU (repetition, no network)", "uint8", halo=0
        )

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Lanes cost nothing here."""
        return [NearestLane(spec) for _ in range(count)]

    def close(self) -> None:
        """Holds nothing."""
