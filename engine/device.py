"""Frames that stay on the device: what a backend offers whose lanes can give them away.

Video then goes from the decoder's memory through the network into the encoder's without crossing
to the host. Knows neither CUDA nor codecs: both sides meet through DLPack.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from engine.backends.base import LaneSpec
from engine.dlpack import Plane, SupportsDlpack, plane_of
from engine.errors import ContractError
from engine.frames import Bytes, Frame, check_frame

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DeviceNv12:
    """An nv12 frame in device memory: ``y`` (H, W) and ``uv`` (H/2, W/2, 2); even sizes only."""

    y: Plane
    uv: Plane

    def __post_init__(self) -> None:
        height, width = self.y.rows, self.y.row_bytes
        if self.y.samples != 1 or height % 2 or width % 2 or not height or not width:
            raise ContractError(f"a frame on a device has even sides, got {width}x{height}")
        if self.uv.shape != (height // 2, width // 2, 2) or self.uv.device != self.y.device:
            raise ContractError(
                f"a frame on a device of {width}x{height} needs uv of shape "
                f"{(height // 2, width // 2, 2)} beside it, got {self.uv.shape}"
            )

    @classmethod
    def of(cls, y: SupportsDlpack, uv: SupportsDlpack) -> DeviceNv12:
        """The planes of another library's frame, which stays alive as long as this one."""
        return cls(plane_of(y), plane_of(uv))


AnyFrame: TypeAlias = Frame | DeviceNv12
"""On the host or on the device."""


class DeviceLane(Protocol):
    """A lane whose results stay on the device; otherwise like ``engine.backends.base.Lane``."""

    def start(self, frame: AnyFrame) -> None:
        """Begins work on a frame of the host or of the device. It must stay as it is until
        ``finish``."""

    def finish(self) -> DeviceNv12:
        """Waits for the frame. Its memory is the lane's and valid until its next ``start``."""

    def band(self) -> tuple[Bytes, Bytes]:
        """Some rows of the last frame's Y in and out, on the host, for the guard: (R, W) and
        (4R, 4W). Others each time; valid until the next ``start``."""

    def close(self) -> None:
        """Frees what the lane holds; harmless when called twice."""


class DeviceMemory(Protocol):
    """The device that a backend runs on."""

    def call(self, work: Callable[[], Result]) -> Result:
        """``work()`` on the device's own thread, with its context current there."""

    def blank(self, height: int, width: int) -> AbstractContextManager[DeviceNv12]:
        """A frame of zeros, laid out like those of the lanes; freed at the end of the context.

        Raises:
            OutOfMemory: it does not fit.
        """


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend whose lanes can leave their results on the device."""

    @property
    def memory(self) -> DeviceMemory:
        """Where the frames are."""

    def open_device_lanes(self, spec: LaneSpec, count: int) -> list[DeviceLane]:
        """Like ``open_lanes``, for nv12 frames that stay on the device.

        Raises:
            ContractError: frames of this shape cannot be given away; see :func:`why_not`.
        """


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory of a device, whoever uses it."""

    used_bytes: int
    total_bytes: int


@runtime_checkable
class MeasuredBackend(Protocol):
    """A backend that knows how full its device is."""

    def memory_use(self) -> MemoryUse:
        """At this moment. Raises EngineFault when the device failed."""


def why_not(height: int, width: int, frame_format: str) -> str:
    """Why frames of this shape cannot stay on a device; empty when they can.

    An encoder takes both planes only as one piece, chroma right behind luma. Planes begin at
    multiples of 256 bytes, so that the x4 luma must end at one, and its rows at one of 64.
    """
    if frame_format != "nv12":
        return f"{frame_format} frames go through the host"
    if height % 2 or width % 16:
        return f"{width}x{height} frames are not a multiple of 16 wide and of 2 high"
    return ""


def check_any_frame(frame: AnyFrame, spec: LaneSpec) -> None:
    """Raises ContractError unless the frame has the lane's format and size."""
    if not isinstance(frame, DeviceNv12):
        check_frame(frame, spec.format, spec.height, spec.width)
    elif spec.format != "nv12" or (frame.y.rows, frame.y.row_bytes) != (spec.height, spec.width):
        raise ContractError(
            f"the lane takes {spec.format} frames of {spec.width}x{spec.height}, got nv12 of "
            f"{frame.y.row_bytes}x{frame.y.rows} on a device"
        )
