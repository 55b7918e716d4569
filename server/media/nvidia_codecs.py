"""Codecs that read and write device memory, through PyAV: NVENC and NVDEC.

Read from PyAV 18.1: an encoder whose pixel format is ``cuda`` takes the frames context of the first
frame that it gets, so it opens then; ``VideoFrame.from_dlpack`` and ``HWAccel`` share the context
that is current on the calling thread (``current_ctx``), where FFmpeg's own ``primary_ctx`` fails
once somebody else has activated the primary context. No GPU has run this yet: everything but the
two flags that name CUDA is tested with software codecs over memory of the host.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Protocol, cast

import av
from av.codec.context import CodecContext
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import CudaContext, VideoFrame
from av.video.stream import VideoStream

from engine.device import DeviceMemory, DeviceNv12
from server.media.encoding import FRAME_DURATION_FLAG, EncoderSpec, PictureSpec
from server.media.errors import CodecUnavailable

FAILURES = (av.FFmpegError, OSError, ValueError, TypeError, RuntimeError, NotImplementedError)
"""What PyAV raises when a codec does not work on this machine."""

_HARDWARE_NAMES = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
"""Software decoders -> the decoder that knows NVDEC."""


class DeviceEncoding(Protocol):
    """An encoder of frames in device memory."""

    def encode(self, frame: DeviceNv12, pts: int, duration: int) -> list[Packet[VideoStream]]:
        """Packets so far. The frame has been read when this returns."""

    def flush(self) -> list[Packet[VideoStream]]:
        """What the encoder still holds."""


class DeviceDecoding(Protocol):
    """A decoder whose frames stay in device memory."""

    def decode(self, packet: Packet[Any] | None) -> list[VideoFrame]:
        """Frames so far; None for the last ones."""

    def planes(self, frame: VideoFrame) -> DeviceNv12:
        """A decoded frame, which stays alive as long as the result. Raises one of FAILURES."""


class DeviceCodecs(Protocol):
    """Opens codecs over one device's memory. Both raise one of FAILURES or CodecUnavailable."""

    def open_encoder(
        self, memory: DeviceMemory, spec: EncoderSpec, picture: PictureSpec
    ) -> DeviceEncoding:
        """An encoder."""

    def open_decoder(
        self, memory: DeviceMemory, codec: str, extradata: bytes | None
    ) -> DeviceDecoding:
        """A decoder for packets of ``codec``, FFmpeg's name of the software one."""


class DlpackEncoding:
    """An encoder that is given planes by address.

    Args:
        memory: where the frames are.
        spec: the encoder, its options and its clock.
        picture: size and colour.
        pixel_format: ``cuda``, or ``nv12`` for memory of the host.
    """

    def __init__(
        self,
        memory: DeviceMemory,
        spec: EncoderSpec,
        picture: PictureSpec,
        pixel_format: str = "cuda",
    ) -> None:
        self._memory, self._picture, self._time_base = memory, picture, spec.time_base
        on_device = pixel_format == "cuda"
        self._cuda = CudaContext(primary_ctx=False, current_ctx=True) if on_device else None
        context = cast(VideoCodecContext, CodecContext.create(spec.encoder, "w"))
        context.width, context.height = picture.out_width, picture.out_height
        context.pix_fmt = pixel_format
        context.time_base, context.framerate = spec.time_base, spec.rate or Fraction(25)
        context.options = dict(spec.options)
        context.flags |= FRAME_DURATION_FLAG
        picture.describe(context)
        self._context = context

    def encode(self, frame: DeviceNv12, pts: int, duration: int) -> list[Packet[VideoStream]]:
        """See DeviceEncoding."""
        # On the device's thread, because the first call remembers the context current there.
        taken = self._memory.call(lambda: self._taken(frame))
        taken.pts, taken.time_base, taken.duration = pts, self._time_base, duration
        return self._context.encode(taken)

    def flush(self) -> list[Packet[VideoStream]]:
        """See DeviceEncoding."""
        return self._context.encode(None) if self._context.is_open else []

    def _taken(self, frame: DeviceNv12) -> VideoFrame:
        taken = VideoFrame.from_dlpack((frame.y, frame.uv), format="nv12", cuda_context=self._cuda)
        taken.colorspace = self._picture.colour.matrix
        taken.color_range = self._picture.colour.swscale_range
        return taken


class DlpackDecoding:
    """NVDEC through FFmpeg; its frames stay on the GPU."""

    def __init__(self, memory: DeviceMemory, codec: str, extradata: bytes | None) -> None:
        name = _HARDWARE_NAMES.get(codec, codec)
        hardware = HWAccel(
            "cuda",
            allow_software_fallback=False,
            options={"primary_ctx": "0", "current_ctx": "1"},
            is_hw_owned=True,
        )
        context = memory.call(lambda: CodecContext.create(name, "r", hardware))
        if not context.is_hwaccel:
            raise CodecUnavailable(f"FFmpeg's {name} decoder knows no NVDEC")
        context.extradata = extradata
        context.thread_count = 1
        self._context = cast(VideoCodecContext, context)

    def decode(self, packet: Packet[Any] | None) -> list[VideoFrame]:
        """See DeviceDecoding."""
        return self._context.decode(packet)

    def planes(self, frame: VideoFrame) -> DeviceNv12:
        """See DeviceDecoding."""
        if frame.format.name != "cuda":
            raise ValueError(f"NVDEC gave a frame in {frame.format.name}, not in device memory")
        return DeviceNv12.of(*frame.planes)


class NvidiaCodecs:
    """NVENC and NVDEC."""

    def open_encoder(
        self, memory: DeviceMemory, spec: EncoderSpec, picture: PictureSpec
    ) -> DeviceEncoding:
        """See DeviceCodecs."""
        return DlpackEncoding(memory, spec, picture)

    def open_decoder(
        self, memory: DeviceMemory, codec: str, extradata: bytes | None
    ) -> DeviceDecoding:
        """See DeviceCodecs."""
        return DlpackDecoding(memory, codec, extradata)
