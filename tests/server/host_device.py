"""A device whose memory is the host's, and codecs over it: everything but CUDA's two flags is real.

Frames travel as DLPack planes of the CPU, through PyAV's own import and export, into software
encoders that stand in for NVENC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from engine.backends.base import BackendInfo, LaneSpec
from engine.backends.nearest import NearestBackend, enlarge
from engine.contract import SCALE
from engine.device import AnyFrame, DeviceLane, DeviceMemory, DeviceNv12, check_any_frame
from engine.dlpack import Plane
from engine.frames import Bytes, Nv12
from server.media.encoding import EncoderSpec, PictureSpec
from server.media.nvidia_codecs import DeviceDecoding, DeviceEncoding, DlpackEncoding

Result = TypeVar("Result")


def on_device(frame: Nv12) -> DeviceNv12:
    """A frame's planes by address."""
    return DeviceNv12.of(frame.y, frame.uv)


def to_host(plane: Plane) -> Bytes:
    """A copy of a plane's bytes."""
    return np.from_dlpack(plane).copy()


def blank(height: int, width: int) -> Nv12:
    """Zeros."""
    return Nv12(
        np.zeros((height, width), np.uint8), np.zeros((height // 2, width // 2, 2), np.uint8)
    )


@dataclass
class HostMemory:
    """The host as a device."""

    calls: int = 0
    blanks: int = 0

    def call(self, work: Callable[[], Result]) -> Result:
        self.calls += 1
        return work()

    @contextmanager
    def blank(self, height: int, width: int) -> Iterator[DeviceNv12]:
        self.blanks += 1
        y, uv = (
            np.zeros((height, width), np.uint8),
            np.zeros((height // 2, width // 2, 2), np.uint8),
        )
        yield on_device(Nv12(y, uv))


class HostDeviceLane:
    """Repetition, into memory that is used again for the next frame."""

    def __init__(self, spec: LaneSpec) -> None:
        self._spec = spec
        height, width = spec.height * SCALE, spec.width * SCALE
        y, uv = (
            np.empty((height, width), np.uint8),
            np.empty((height // 2, width // 2, 2), np.uint8),
        )
        self._made = Nv12(y, uv)
        self._given: Nv12 | None = None

    def start(self, frame: AnyFrame) -> None:
        check_any_frame(frame, self._spec)
        if isinstance(frame, DeviceNv12):
            frame = Nv12(to_host(frame.y), to_host(frame.uv))
        assert isinstance(frame, Nv12)
        made = enlarge(frame)
        assert isinstance(made, Nv12)
        self._given = frame
        self._made.y[...], self._made.uv[...] = made.y, made.uv

    def finish(self) -> DeviceNv12:
        return on_device(self._made)

    def band(self) -> tuple[Bytes, Bytes]:
        assert self._given is not None
        return self._given.y, self._made.y

    def close(self) -> None:
        self._made.y[...] = 0  # whoever looks at it later sees that


@dataclass
class HostDevice(NearestBackend):
    """Repetition, whose frames can stay on the device."""

    memory: DeviceMemory = field(default_factory=HostMemory)

    @property
    def info(self) -> BackendInfo:
        return replace(super().info, name="tensorrt")

    def open_device_lanes(self, spec: LaneSpec, count: int) -> list[DeviceLane]:
        return [HostDeviceLane(spec) for _ in range(count)]


class SoftwareDecoding:
    """A software decoder that gives device planes."""

    def __init__(self, codec: str, extradata: bytes | None, failure: Exception | None) -> None:
        self._failure = failure
        context = cast(VideoCodecContext, CodecContext.create(codec, "r"))
        context.extradata, context.thread_count = extradata, 1
        self._context = context

    def decode(self, packet: Packet[Any] | None) -> list[VideoFrame]:
        return self._context.decode(packet)

    def planes(self, frame: VideoFrame) -> DeviceNv12:
        if self._failure:
            raise self._failure
        return DeviceNv12.of(*frame.reformat(format="nv12").planes)


@dataclass
class SoftwareCodecs:
    """Opens software codecs over memory of the host; fails where it is told to."""

    no_encoder: Exception | None = None
    no_decoder: Exception | None = None
    no_planes: Exception | None = None
    opened: list[str] = field(default_factory=list)

    def open_encoder(
        self, memory: DeviceMemory, spec: EncoderSpec, picture: PictureSpec
    ) -> DeviceEncoding:
        if self.no_encoder:
            raise self.no_encoder
        self.opened.append(spec.encoder)
        assert spec.options["delay"] == "0"
        options = {"preset": "ultrafast", "tune": "zerolatency", "bf": "0", "crf": "4"}
        if spec.encoder == "hevc_nvenc":
            options |= {"x265-params": "log-level=none:repeat-headers=1:pools=none"}
            spec = replace(spec, encoder="libx265", options=options)
            return DlpackEncoding(memory, spec, picture, pixel_format="yuv420p")
        spec = replace(spec, encoder="libx264", options=options)
        return DlpackEncoding(memory, spec, picture, pixel_format="nv12")

    def open_decoder(
        self, memory: DeviceMemory, codec: str, extradata: bytes | None
    ) -> DeviceDecoding:
        if self.no_decoder:
            raise self.no_decoder
        self.opened.append(codec)
        return SoftwareDecoding(codec, extradata, self.no_planes)
