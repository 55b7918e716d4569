"""Upscaled frames into a video file or stream, encoded in a child process: the parent's side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from engine.closing import Closing
from engine.device import AnyFrame, DeviceNv12
from engine.frames import Frame, Nv12
from server.media.child import Child
from server.media.codecs import (
    CODECS,
    Codec,
    ContainerName,
    Pace,
    check_codec_size,
    encoder_options,
    find_codec,
)
from server.media.colour import Colour
from server.media.errors import CodecUnavailable, EncodeError
from server.media.limits import Limits
from server.media.wire import Message, slot_bytes

_SLOTS = 3
_MOST_REPEATS = 32
"""On their way to the child at once: it must not look idle for as long as thousands take."""
_GOP_SECONDS: dict[Pace, int] = {"file": 5, "stream": 1, "real_time": 1}
_PATIENCE = 120.0
_JOIN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """What to write and how."""

    codec: str
    container: ContainerName
    frame_format: str
    """``rgb24`` or ``nv12``."""
    width: int
    """Of the frames that are put in, in pixels."""
    height: int
    out_width: int
    """Of the video that is written; smaller ones are made by area averaging."""
    out_height: int
    time_base: Fraction
    rate: Fraction | None
    colour: Colour
    quality: int | None = None
    preset: str | None = None
    real_time: bool = False
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Companions:
    """Where the other streams come from, and which part of them."""

    source: Path
    video_index: int
    limits: Limits
    window_start: Fraction | None = None
    """On the source's clock, in seconds."""
    window_end: Fraction | None = None
    shift: Fraction | None = None
    """Subtracted from every time stamp, in seconds."""


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What was written."""

    frames: int
    packets: int
    side_packets: int
    shift_seconds: Fraction
    """How far the muxer had to move everything so that no time stamp is negative."""
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    damaged: Mapping[int, int] = field(default_factory=dict)
    """Stream of the source -> packets that were too damaged to be copied."""
    moved: Mapping[int, int] = field(default_factory=dict)
    """Stream of the source -> packets whose time went back and was moved to the next free one."""
    raised: Mapping[int, Fraction] = field(default_factory=dict)
    """Stream of the source -> how far, in seconds, its first packets were moved up to zero."""
    packet_pts: tuple[int, ...] = ()
    """Of a segment: the pts of its packets in decoding order."""


class Encoder(Closing):
    """An encode child. ``put`` frames in order, then ``finish``.

    Raises, from any method: CodecUnavailable, DiskFull, EncodeError; MediaError for a source
    whose other streams cannot be read.
    """

    kind = "write"
    """What the child is asked for: to encode frames; in a subclass, to write finished packets."""

    def __init__(
        self,
        options: EncodeOptions,
        companions: Companions | None,
        output: Path | int,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Starts the child; returns once the output's header can be written.

        Args:
            options: what to write.
            companions: the source of everything but the picture; None: the picture alone.
            output: a file to create, or the descriptor of a pipe to write to.
            check: called several times a second while waiting; raises to give up.
        """
        command = command_for(options, companions, output) | {"type": self.kind}
        self._patience = _PATIENCE if companions is None else companions.limits.no_progress_seconds
        self._check = check
        self._free = list(range(_SLOTS))
        self._repeats = 0
        self.dropped: list[dict[str, Any]] = []
        self.copied: list[dict[str, Any]] = []
        pass_fds = (output,) if isinstance(output, int) else ()
        self._child = Child("server.media.encode_child", "encoding", pass_fds)
        try:
            size = slot_bytes(options.frame_format, options.height, options.width)
            self._ring = self._child.map_ring(_SLOTS, size)
            self._child.send(command)
            self._wait_until_ready()
        except BaseException:
            self._child.close()
            raise

    def _wait_until_ready(self) -> None:
        ready = self._receive()
        self.dropped, self.copied = ready["dropped"], ready["copied"]

    def _receive(self) -> Message:
        return self._child.receive(self._patience, self._check)

    def _take_slot(self) -> int:
        """Waits while the child is behind."""
        while not self._free or self._child.has_message():
            self._hear(self._receive())
        return self._free.pop()

    def _hear(self, message: Message) -> None:
        """What the child says between ``ready`` and ``done``."""
        if message["type"] == "repeated":
            self._repeats -= 1
        else:
            self._free.append(int(message["slot"]))

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def put(self, frame: AnyFrame, pts: int, duration: int) -> None:
        """Queues a frame of the host; waits while the encoder is behind. ``frame`` is copied."""
        if isinstance(frame, DeviceNv12):
            raise TypeError("this encoder takes frames of the host")
        slot = self._take_slot()
        _store(frame, self._ring.slot(slot))
        self._child.send({"type": "frame", "slot": slot, "pts": pts, "duration": duration})

    def repeat(self, pts: int, duration: int) -> None:
        """Queues the previous frame once more; waits while the encoder is far behind."""
        while self._repeats >= _MOST_REPEATS or self._child.has_message():
            self._hear(self._receive())
        self._repeats += 1
        self._child.send({"type": "repeat", "pts": pts, "duration": duration})

    def finish(self) -> EncodeSummary:
        """Waits until everything is encoded and the file is complete."""
        self._child.send({"type": "end"})
        while (message := self._receive())["type"] != "done":
            self._hear(message)
        return _summary(message)

    def close(self) -> None:
        """Ends the child; harmless when called twice."""
        self._child.close()


@dataclass(frozen=True, slots=True)
class Joined:
    """What ``join_segments`` made."""

    summary: EncodeSummary
    copied: list[dict[str, Any]]
    dropped: list[dict[str, Any]]


def join_segments(
    folder: Path,
    options: EncodeOptions,
    companions: Companions,
    output: Path,
    check: Callable[[], None] | None = None,
) -> Joined:
    """Writes the segments in ``folder`` into one file, without encoding anything again.

    Every time stamp comes from the ledger beside them; ``options`` are those of the result.

    Raises:
        EncodeError, DiskFull, MediaError: as ``Encoder``.
    """
    patience = companions.limits.no_progress_seconds
    command = command_for(options, companions, output)
    with Child("server.media.encode_child", "joining") as child:
        child.send(command | {"type": "join", "folder": str(folder.absolute())})
        ready = child.receive(patience, check)
        # Copying a long video says nothing until it is done.
        done = child.receive(_JOIN_SECONDS, check)
    return Joined(_summary(done), ready["copied"], ready["dropped"])


def checked_codec(options: EncodeOptions) -> Codec:
    """The codec asked for. Raises CodecUnavailable when it cannot hold the result."""
    codec = find_codec(options.codec)
    check_codec_size(codec, options.out_width, options.out_height)
    if options.out_width % 2 or options.out_height % 2:
        raise CodecUnavailable(
            f"A video cannot be {options.out_width}x{options.out_height}; "
            "width and height must be even."
        )
    return codec


def _summary(message: Message) -> EncodeSummary:
    return EncodeSummary(
        frames=message["frames"],
        packets=message["packets"],
        side_packets=message["side_packets"],
        shift_seconds=Fraction(message["shift_seconds"]),
        stages=message["stages"],
        damaged=dict(message["damaged"]),
        moved=dict(message["moved"]),
        raised={index: Fraction(seconds) for index, seconds in message["raised"]},
        packet_pts=tuple(message["packet_pts"]),
    )


def usable_codecs() -> dict[str, str | None]:
    """Encoder name -> None when it really works on this machine, else why not.

    Each is opened and encodes a frame in a child of its own; takes about 0.2 s per encoder.
    """
    return {name: _try_codec(codec) for name, codec in CODECS.items()}


def _try_codec(codec: Codec) -> str | None:
    options = encoder_options(codec, quality=None, preset=None, pace="real_time", gop_frames=1)
    with Child("server.media.encode_child", "encoding") as child:
        try:
            child.send({"type": "try", "encoder": codec.encoder, "options": options})
            reason = child.receive(20.0)["reason"]
        except EncodeError as error:
            return str(error)
    return None if reason is None else str(reason)


def _store(frame: Frame, slot: memoryview) -> None:
    planes = (frame.y, frame.uv) if isinstance(frame, Nv12) else (frame,)
    start = 0
    for plane in planes:
        target = np.frombuffer(slot, np.uint8, plane.size, start).reshape(plane.shape)
        target[...] = plane
        start += plane.size


def command_for(
    options: EncodeOptions, companions: Companions | None, output: Path | int
) -> Message:
    """What an encode child is told. Raises CodecUnavailable for what no codec can do."""
    codec = checked_codec(options)
    streaming = isinstance(output, int)
    pace: Pace = "real_time" if options.real_time else "stream" if streaming else "file"
    frames = round(float(options.rate or 25) * _GOP_SECONDS[pace])
    private = encoder_options(
        codec,
        quality=options.quality,
        preset=options.preset,
        pace=pace,
        gop_frames=min(frames, 600),
    )
    return {
        "type": "write",
        "container": options.container,
        "output_fd": output if streaming else None,
        "output_path": None if isinstance(output, int) else os.fspath(output.absolute()),
        "slots": _SLOTS,
        "picture": {
            "frame_format": options.frame_format,
            "width": options.width,
            "height": options.height,
            "out_width": options.out_width,
            "out_height": options.out_height,
            "colour": asdict(options.colour),
            "sample_aspect_ratio": _text(options.sample_aspect_ratio),
            "display_matrix": options.display_matrix,
        },
        "encoder": {
            "encoder": codec.encoder,
            "options": private,
            "time_base": str(options.time_base),
            "rate": _text(options.rate),
            "takes_nv12": codec.takes_nv12,
        },
        **_companion_fields(companions),
    }


def _companion_fields(companions: Companions | None) -> Message:
    if companions is None:
        names = ("source", "source_video_index", "limits", "window_start", "window_end", "shift")
        return dict.fromkeys(names)
    return {
        "source": str(companions.source.absolute()),
        "source_video_index": companions.video_index,
        "limits": asdict(companions.limits),
        "window_start": _text(companions.window_start),
        "window_end": _text(companions.window_end),
        "shift": _text(companions.shift),
    }


def _text(value: Fraction | None) -> str | None:
    return None if value is None else str(value)
