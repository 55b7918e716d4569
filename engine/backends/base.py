"""The seam between frames and runtimes: a backend opens lanes; a lane holds one frame in flight.

``start`` hands a frame over, ``finish`` waits for its result. Double buffering is then plain
Python over N lanes (``engine.upscaler``), and a GPU lane is one slot of pinned and device memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from engine.contract import FrameFormat
from engine.frames import Frame


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """What a lane must be able to take: every frame it gets has exactly this shape."""

    height: int
    """Input height in pixels."""
    width: int
    """Input width in pixels."""
    format: FrameFormat = "rgb24"
    matrix: str = "bt709"
    """Colour matrix of nv12 frames: ``bt601``, ``bt709`` or ``bt2020``. Ignored for rgb24."""
    full_range: bool = False
    """Whether nv12 samples span 0..255 rather than 16..235/240. Ignored for rgb24."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """Who really runs the frames; it goes into every response, manifest and proof."""

    name: str
    """``winograd``, ``onnxruntime``, ``tensorrt``, ``tensorrt_rtx`` or ``nearest``."""
    version: str
    device: str
    """What a person calls the device, e.g. ``AMD EPYC (2 threads)`` or ``Tesla T4``."""
    precision: str = "fp32"
    model: str = ""
    """Model name or path, e.g. ``fast``."""
    onnx_sha256: str = ""
    plan_sha256: str = ""
    halo: int = 17
    """Input pixels around an output pixel that can change it, if only by rounding: at least
    ``config.halo`` of the model."""
    max_pixels: int = 1024 * 1024
    """Input pixels that a lane takes at most; larger frames go through in row strips."""
    detail: dict[str, str] = field(default_factory=dict)


class Lane(Protocol):
    """One frame in flight. ``start`` and ``finish`` alternate; anything else is misuse."""

    def start(self, frame: Frame) -> None:
        """Begins work on ``frame``. The caller may reuse its memory only after ``finish``."""

    def finish(self) -> Frame:
        """Waits for the frame of the last ``start``: uint8, 4x the size, same format.

        The result belongs to the lane until the next ``start`` on it: copy it or use it first.

        Raises:
            EngineFault: the work failed. The lane must be closed and not used again.
        """

    def close(self) -> None:
        """Frees what the lane holds; harmless when called twice."""


class Backend(Protocol):
    """A runtime holding one model. Opening lanes is what costs memory."""

    @property
    def info(self) -> BackendInfo:
        """Who really runs the frames."""

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        """Opens ``count`` lanes for frames of one shape.

        Raises:
            OutOfMemory: they do not fit.
            BackendUnavailable: the device went away.
        """

    def close(self) -> None:
        """Closes every lane and frees the runtime; harmless when called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
