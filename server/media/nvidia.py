"""Video in device memory: packets to frames and frames to packets, beside the engine's GPU.

The counterparts of ``Decoder`` and ``Encoder`` for a process that owns a GPU. Containers are still
parsed and written in children; only packets cross, and pictures never leave the device. Knows
DLPack planes and codecs over them, not CUDA.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from engine.closing import Closing
from engine.device import AnyFrame, DeviceMemory, DeviceNv12
from engine.errors import ContractError
from server.media.child import Child
from server.media.decode import DecodeOptions, DecodeSummary
from server.media.decoding import Clock, Counters
from server.media.description import colour_of
from server.media.encode import Companions, EncodeOptions, Encoder, EncodeSummary, command_for
from server.media.encoding import (
    EncoderSpec,
    PictureSpec,
    encoder_from_message,
    picture_from_message,
)
from server.media.errors import (
    CodecUnavailable,
    EncodeError,
    MediaError,
    UnsupportedMedia,
    UnusableMedia,
)
from server.media.nvidia_codecs import FAILURES, DeviceCodecs, DeviceDecoding, DeviceEncoding
from server.media.open import too_many_frames
from server.media.probe import VideoInfo
from server.media.timing import percentiles
from server.media.wire import Message, slot_bytes

_SLOTS = 8
_LEAST_SLOT_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Device:
    """A device's memory and the codecs over it."""

    memory: DeviceMemory
    codecs: DeviceCodecs


@dataclass(frozen=True, slots=True)
class DeviceDecoded:
    """One frame in device memory with its place in time."""

    frame: DeviceNv12
    """Alive as long as it is referred to."""
    pts: int
    duration: int


class DeviceDecoder(Closing):
    """NVDEC over the packets of a child that demuxes. Iterate once; then ``summary`` is set.

    Raises, from any method: UnusableMedia, UnsupportedMedia, OverLimit.
    """

    def __init__(
        self,
        source: Path,
        options: DecodeOptions,
        info: VideoInfo,
        device: Device,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Decodes the first frame, so that what does not work here shows before any is used.

        Args:
            source: a real file.
            options: what to decode.
            info: what the decode child said about it.
            device: where.
            check: called several times a second while waiting; raises to give up.

        Raises:
            CodecUnavailable: NVDEC does not decode this; the host can.
        """
        self.info = info
        self._options, self._check, self._device = options, check, device
        self._counters = Counters()
        self.summary: DecodeSummary | None = None
        self._child = Child("server.media.nvidia_child", "decoding")
        try:
            frame_bytes = slot_bytes("nv12", info.height, info.width)
            self._ring = self._child.map_ring(_SLOTS, max(frame_bytes, _LEAST_SLOT_BYTES))
            self._child.send(_demux_command(source, options, self._ring.slot_bytes))
            self._decoding = self._opened(self._receive())
            self._timed = self._in_time()
            self._first = self._tried()
        except BaseException:
            self._child.close()
            raise

    def _opened(self, head: Message) -> DeviceDecoding:
        extradata = base64.b64decode(head["extradata"]) or None
        codecs = self._device.codecs
        try:
            return codecs.open_decoder(self._device.memory, str(head["codec"]), extradata)
        except FAILURES as error:
            raise CodecUnavailable(f"NVDEC does not open ({type(error).__name__})") from error

    def _tried(self) -> DeviceDecoded | None:
        try:
            first = next(self._timed, None)
        except FAILURES as error:
            raise CodecUnavailable(f"NVDEC gives no frame ({type(error).__name__})") from error
        except MediaError as error:  # the host's decoder is the one to judge
            raise CodecUnavailable(f"NVDEC does not take this stream ({error.code})") from error
        if first is None or self._counters.decode_errors:
            raise CodecUnavailable(f"NVDEC does not decode this {self.info.codec} stream")
        return first

    def __iter__(self) -> Iterator[DeviceDecoded]:
        """The frames in presentation order."""
        first, self._first = self._first, None
        if first is not None:
            yield first
        del first  # the decoder has few surfaces
        yield from self._timed

    def _receive(self) -> Message:
        return self._child.receive(self._options.limits.no_progress_seconds, self._check)

    def _in_time(self) -> Iterator[DeviceDecoded]:
        """Frames that are wanted, each with a pts of its own; as ``timed_frames`` of the host."""
        info, counters = self.info, self._counters
        clock = Clock(round(1 / info.average_rate / info.time_base) if info.average_rate else 1)
        start, end = (
            None if seconds is None else info.start_seconds + Fraction(str(seconds))
            for seconds in (self._options.start_seconds, self._options.end_seconds)
        )
        for frame in self._frames():
            pts = clock.pts(frame, counters)
            if start is not None and pts * info.time_base < start:
                counters.skipped += 1
                continue
            if end is not None and pts * info.time_base >= end:
                counters.stopped_early = True
                break
            self._count(frame)
            planes = self._decoding.planes(frame)
            yield DeviceDecoded(planes, pts, max(int(frame.duration or 0), 0))
        self.summary = DecodeSummary(**counters.__dict__)

    def _frames(self) -> Iterator[VideoFrame]:
        while (message := self._receive())["type"] == "packet":
            slot = int(message["slot"])
            packet: Packet[Any] = Packet(bytes(self._ring.slot(slot)[: int(message["size"])]))
            self._child.tell({"free": slot})
            packet.time_base = self.info.time_base
            packet.pts, packet.dts = message["pts"], message["dts"]
            packet.duration, packet.is_keyframe = message["duration"], message["key"]
            self._counters.packets += 1
            yield from self._decode(packet)
        self._counters.corrupt_packets = int(message["corrupt_packets"])
        self._counters.demux_error = str(message["demux_error"])
        yield from self._decode(None)

    def _decode(self, packet: Packet[Any] | None) -> Iterator[VideoFrame]:
        try:
            yield from self._decoding.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError as error:
            if self._options.strict:
                text = "A part of the video cannot be decoded, and strict was asked for."
                raise UnusableMedia(text, code="corrupt") from error
            self._counters.decode_errors += 1

    def _count(self, frame: VideoFrame) -> None:
        """Counts a frame and refuses what the host's decoder refuses or would convert."""
        info, counters, limits = self.info, self._counters, self._options.limits
        if (frame.width, frame.height) != (info.width, info.height):
            raise UnusableMedia(
                f"The frames change from {info.width}x{info.height} to {frame.width}x"
                f"{frame.height} after {counters.frames} frames; split the video there.",
                code="size_changed",
            )
        counters.frames += 1
        if limits.max_frames is not None and counters.frames > limits.max_frames:
            raise too_many_frames(limits.max_frames)
        counters.corrupt += frame.is_corrupt
        counters.interlaced += frame.interlaced_frame
        if self._options.strict and frame.is_corrupt:
            raise UnusableMedia(
                f"Frame {counters.frames} is damaged, and strict was asked for.", code="corrupt"
            )
        if colour_of(frame).resolved(frame.height, is_rgb=False) != info.colour:
            raise UnsupportedMedia(
                f"The colour tags change after {counters.frames - 1} frames, which only the host "
                "converts; use --codec libx264.",
                code="colour_changed",
            )

    def close(self) -> None:
        """Ends the child; harmless when called twice."""
        self._first = None
        self._child.close()


class DeviceEncoder(Encoder):
    """NVENC in this process; its packets go to an encode child that writes the container."""

    kind = "packets"

    def __init__(
        self,
        options: EncodeOptions,
        companions: Companions | None,
        output: Path | int,
        device: Device,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Starts the child and opens the encoder.

        Args:
            options: what to write; the size must be that of the frames.
            companions: the source of everything but the picture; None: the picture alone.
            output: a file to create, or the descriptor of a pipe to write to.
            device: where the frames are.
            check: called several times a second while waiting; raises to give up.
        """
        self._encoding = open_encoder(options, device)
        self._encode_ms: list[float] = []
        super().__init__(options, companions, output, check)

    def _wait_until_ready(self) -> None:
        """The header is written with the first packet, so that is when the child is ready."""

    def _hear(self, message: Message) -> None:
        if message["type"] == "ready":
            self.dropped, self.copied = message["dropped"], message["copied"]
        else:
            super()._hear(message)

    def put(self, frame: AnyFrame, pts: int, duration: int) -> None:
        """Encodes a frame in device memory, which has been read when this returns."""
        if not isinstance(frame, DeviceNv12):
            raise ContractError("this encoder reads device memory, got a frame of the host")
        started = time.perf_counter()
        try:
            packets = self._encoding.encode(frame, pts, duration)
        except FAILURES as error:
            raise EncodeError(
                f"NVENC failed ({type(error).__name__}); try another codec."
            ) from error
        self._encode_ms.append((time.perf_counter() - started) * 1e3)
        self._send_packets(packets)

    def repeat(self, pts: int, duration: int) -> None:
        """Not on a device: its previous frame is gone."""
        raise ContractError("a frame in device memory cannot be shown twice")

    def finish(self) -> EncodeSummary:
        """Waits until everything is encoded and the file is complete."""
        try:
            self._send_packets(self._encoding.flush())
        except FAILURES as error:
            raise EncodeError(
                f"NVENC failed ({type(error).__name__}); try another codec."
            ) from error
        summary = super().finish()
        stages = {"encode": percentiles(self._encode_ms)}
        return replace(summary, frames=len(self._encode_ms), stages=stages)

    def _send_packets(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            data = bytes(packet)
            if len(data) > self._ring.slot_bytes:
                raise EncodeError(f"NVENC made a packet of {len(data)} bytes; lower the quality.")
            slot = self._take_slot()
            self._ring.slot(slot)[: len(data)] = data
            self._child.send(
                {
                    "type": "packet",
                    "slot": slot,
                    "size": len(data),
                    "pts": packet.pts,
                    "dts": packet.dts,
                    "duration": int(packet.duration or 0),
                    "key": bool(packet.is_keyframe),
                }
            )


def _failed(error: Exception) -> EncodeError:
    return EncodeError(f"NVENC failed ({type(error).__name__}); use --codec libx264.")


def open_encoder(options: EncodeOptions, device: Device) -> DeviceEncoding:
    """The encoder for frames in device memory, not yet tried. Raises CodecUnavailable."""
    message = command_for(options, None, Path())
    spec: EncoderSpec = encoder_from_message(message["encoder"])
    picture: PictureSpec = picture_from_message(message["picture"])
    # Packets at once: the lane's memory is used again when the next frame is asked for.
    spec = replace(spec, options=spec.options | {"delay": "0"})
    try:
        return device.codecs.open_encoder(device.memory, spec, picture)
    except FAILURES as error:
        raise CodecUnavailable(f"{spec.encoder} does not open ({type(error).__name__})") from error


def try_encoder(options: EncodeOptions, device: Device) -> str:
    """Encodes one frame of device memory at full size: empty, or why that does not work."""
    with device.memory.blank(options.out_height, options.out_width) as frame:
        return _try_one(options, device, frame)


def _try_one(options: EncodeOptions, device: Device, frame: DeviceNv12) -> str:
    """The encoder ends with this function, before the memory that it registered."""
    try:
        encoding = open_encoder(options, device)
        packets = [*encoding.encode(frame, 0, 1), *encoding.flush()]
    except CodecUnavailable as error:
        return str(error)
    except FAILURES as error:
        return f"{options.codec} takes no device memory ({type(error).__name__})"
    return "" if packets else f"{options.codec} made no data"


def _demux_command(source: Path, options: DecodeOptions, size: int) -> Message:
    return {
        "source": str(source.absolute()),
        "limits": asdict(options.limits),
        "strict": options.strict,
        "start_seconds": options.start_seconds,
        "slots": _SLOTS,
        "slot_bytes": size,
    }
