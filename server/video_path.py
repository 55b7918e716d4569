"""Where the frames of one video are between decoder and encoder: in device memory or on the host.

Device memory needs a backend that can leave frames there, an NVENC encoder that takes them and a
result that is not resized; whether the codecs really work is tried for every video. Everything
else goes through the host, and the manifest says which it was and why.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from engine.backends.base import LaneSpec
from engine.device import AnyFrame, DeviceMemory, DeviceNv12
from engine.errors import OutOfMemory
from server.flow import FrameUpscaler, lane_spec
from server.media.codecs import find_codec
from server.media.decode import DecodedFrame, DecodeOptions, Decoder, DecodeSummary
from server.media.encode import Companions, EncodeOptions, Encoder
from server.media.errors import CodecUnavailable
from server.media.probe import VideoInfo
from server.media.timing import StageTimes

if TYPE_CHECKING:  # PyAV is loaded in the engine's process only where it is used
    from server.media.nvidia import Device, DeviceDecoded, DeviceDecoder
    from server.media.nvidia_codecs import DeviceCodecs

HOST = "host"
_ENCODERS = frozenset({"h264_nvenc", "hevc_nvenc"})


@runtime_checkable
class DeviceUpscaler(Protocol):
    """What device memory needs of ``engine.upscaler.Upscaler``."""

    @property
    def memory(self) -> DeviceMemory | None:
        """Where frames can stay; None: nowhere."""

    def host_only(self, spec: LaneSpec) -> str:
        """Why frames of ``spec`` cannot stay there; empty when they can."""

    def stream_on_device(self, frames: Iterable[AnyFrame], spec: LaneSpec) -> Generator[DeviceNv12]:
        """Frames x4, in order, each valid until the next is asked for."""


@dataclass(frozen=True, slots=True)
class Job:
    """One video and who runs it."""

    source: Path
    info: VideoInfo
    decode: DecodeOptions
    encode: EncodeOptions
    upscaler: FrameUpscaler
    check: Callable[[], None]
    codecs: DeviceCodecs | None = None
    """None: NVIDIA's."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """One frame of the result, in device memory."""

    frame: DeviceNv12
    """Valid until the next is asked for."""
    pts: int
    duration: int


def find_device(job: Job) -> tuple[Device | None, str]:
    """The device on which the frames can stay, else None; and why not."""
    upscaler, encode = job.upscaler, job.encode
    codec = find_codec(encode.codec).encoder
    if codec not in _ENCODERS:
        return None, f"{codec} reads frames of the host"
    if not isinstance(upscaler, DeviceUpscaler) or upscaler.memory is None:
        return None, f"{upscaler.info.name} keeps frames on the host"
    if reason := upscaler.host_only(lane_spec(job.info)):
        return None, reason
    if (encode.out_width, encode.out_height) != (encode.width, encode.height):
        return None, "the result is resized on the host"
    from server.media.nvidia import Device, try_encoder

    device = Device(upscaler.memory, job.codecs or _nvidia())
    try:
        reason = try_encoder(encode, device)
    except OutOfMemory:
        reason = "the GPU has no memory left for a frame of the encoder"
    return (None, reason) if reason else (device, "")


def _nvidia() -> DeviceCodecs:
    from server.media.nvidia_codecs import NvidiaCodecs

    return NvidiaCodecs()


@dataclass
class DevicePath:
    """A video whose results stay on the device; its frames do, too, where NVDEC decodes them.

    The host's decoder is given up for NVDEC only after that has decoded the first frame.
    """

    job: Job
    device: Device
    host: Decoder
    hardware: DeviceDecoder | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        from server.media.nvidia import DeviceDecoder

        job = self.job
        try:
            self.hardware = DeviceDecoder(job.source, job.decode, job.info, self.device, job.check)
        except CodecUnavailable as error:
            self.reason = str(error)
        else:
            self.host.close()

    @property
    def note(self) -> dict[str, str]:
        """For the manifest."""
        if self.hardware is not None:
            return {"decode": "NVDEC, device memory", "encode": "NVENC, device memory"}
        return {"decode": HOST, "encode": "NVENC, device memory", "reason": self.reason}

    @property
    def summary(self) -> DecodeSummary | None:
        """What the decoder counted, once it is through."""
        return self.host.summary if self.hardware is None else self.hardware.summary

    def frames(self) -> Iterator[DecodedFrame | DeviceDecoded]:
        """The decoded frames."""
        return iter(self.host if self.hardware is None else self.hardware)

    def encoder(self, companions: Companions | None, output: Path | int) -> Encoder:
        """The encoder of the result."""
        from server.media.nvidia import DeviceEncoder

        return DeviceEncoder(self.job.encode, companions, output, self.device, self.job.check)

    def close(self) -> None:
        """Ends NVDEC's child; the host's decoder is its owner's."""
        if self.hardware is not None:
            self.hardware.close()


class DeviceFlow:
    """``server.flow.FrameFlow`` for frames that stay on the device.

    Repetitions are upscaled like any other frame: comparing them would need the host.
    """

    def __init__(self, path: DevicePath, shift: int = 0) -> None:
        self._path, self._shift = path, shift
        self._moments: list[tuple[int, int]] = []
        self.times = StageTimes()
        self.ledger: list[int] = []
        self.reused = 0

    def __iter__(self) -> Iterator[OnDevice]:
        """Every frame, in presentation order."""
        job = self._path.job
        assert isinstance(job.upscaler, DeviceUpscaler)
        stream = job.upscaler.stream_on_device(self._decoded(), lane_spec(job.info))
        with closing(stream) as results:
            for index, frame in enumerate(self.times.each("upscale", results)):
                job.check()
                pts, duration = self._moments[index]
                self.ledger.append(pts)
                yield OnDevice(frame, pts, duration)

    def _decoded(self) -> Iterator[AnyFrame]:
        for decoded in self.times.each("decode", self._path.frames(), inside="upscale"):
            self._moments.append((decoded.pts - self._shift, decoded.duration))
            yield decoded.frame
