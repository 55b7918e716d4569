"""Frames of a video file, decoded in a child process: the parent's side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from engine.closing import Closing
from engine.frames import Bytes, Frame, Nv12
from server.media.child import Child
from server.media.errors import UnusableMedia
from server.media.limits import Limits
from server.media.probe import VideoInfo, info_from_message
from server.media.sniff import sniff_file
from server.media.wire import Message, plane_shapes, slot_bytes

_SLOTS = 4


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What to decode and how."""

    limits: Limits
    start_seconds: float | None = None
    """First moment wanted, from where the file's presentation starts."""
    end_seconds: float | None = None
    """First moment not wanted any more."""
    strict: bool = False
    """Damage is an error rather than a count."""
    after_pts: int | None = None
    """Hand over only frames after this pts: the rest of a job that was interrupted."""
    from_pts: int | None = None
    """Begin at this key frame, which must be one of ``server.media.scan.find_key_frames``."""
    until_pts: int | None = None
    """First pts not wanted any more."""
    described: Message | None = None
    """``info_to_message`` of the whole video, so that a part of it is treated alike."""
    formats: tuple[str, ...] = ("rgb24",)
    """Frame formats that the caller takes; ``nv12`` is used for 4:2:0 video if it is among them."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """One frame with its place in time."""

    frame: Frame
    """Owned by the receiver."""
    pts: int
    """In ``VideoInfo.time_base`` units; grows from frame to frame."""
    duration: int
    """In the same units; 0 when not known."""
    key: bool
    corrupt: bool


@dataclass(frozen=True, slots=True)
class DecodeSummary:
    """What the decoder saw, once it is through."""

    packets: int
    frames: int
    skipped: int
    corrupt: int
    corrupt_packets: int
    decode_errors: int
    interlaced: int
    pts_repaired: int
    colour_changed: int
    stopped_early: bool
    demux_error: str


class Decoder(Closing):
    """A decode child. Iterating gives the frames; then ``summary`` is set.

    Raises, from any method: UnsupportedMedia, UnusableMedia, OverLimit.
    """

    def __init__(
        self, source: Path, options: DecodeOptions, check: Callable[[], None] | None = None
    ) -> None:
        """Starts the child and waits for the first frame to be described.

        Args:
            source: a real file.
            options: what to decode.
            check: called several times a second while waiting; raises to give up.
        """
        self._limits = options.limits
        self._check = check
        self.summary: DecodeSummary | None = None
        sniff_file(source)  # what is no media at all does not cost a process
        self._child = Child("server.media.decode_child", "decoding")
        try:
            command = asdict(options) | {"source": str(source.absolute())}
            self._child.send(command)
            self.info = self._head()
        except BaseException:
            self._child.close()
            raise

    def _head(self) -> VideoInfo:
        message = self._receive()
        if message.get("type") != "head":
            raise UnusableMedia("The video cannot be described; it may be damaged.")
        return info_from_message(message["info"])

    def _receive(self) -> Message:
        return self._child.receive(self._limits.no_progress_seconds, self._check)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def __iter__(self) -> Iterator[DecodedFrame]:
        """The frames in presentation order, each copied out of shared memory. Only once."""
        info = self.info
        size = slot_bytes(info.frame_format, info.height, info.width)
        ring = self._child.map_ring(_SLOTS, size)
        self._child.send({"slots": _SLOTS})
        while (message := self._receive())["type"] == "frame":
            slot = int(message["slot"])
            frame = _copy_frame(ring.slot(slot), info)
            self._child.tell({"free": slot})
            yield DecodedFrame(
                frame=frame,
                pts=int(message["pts"]),
                duration=int(message["duration"]),
                key=bool(message["key"]),
                corrupt=bool(message["corrupt"]),
            )
        self.summary = _summary(message)

    def close(self) -> None:
        """Ends the child; harmless when called twice."""
        self._child.close()


def probe(source: Path, limits: Limits) -> VideoInfo:
    """What ``source`` is, after decoding its first frame in a child.

    Raises:
        UnsupportedMedia, UnusableMedia, OverLimit: it cannot be processed.
    """
    with Decoder(source, DecodeOptions(limits)) as decoder:
        return decoder.info


def _summary(message: dict[str, Any]) -> DecodeSummary:
    return DecodeSummary(**{field.name: message[field.name] for field in fields(DecodeSummary)})


def _copy_frame(slot: memoryview, info: VideoInfo) -> Frame:
    shapes = plane_shapes(info.frame_format, info.height, info.width)
    planes: list[Bytes] = []
    start = 0
    for rows, length in shapes:
        view = np.frombuffer(slot, np.uint8, rows * length, start)
        planes.append(view.reshape(rows, length).copy())
        start += rows * length
    if info.frame_format == "nv12":
        return Nv12(planes[0], planes[1].reshape(shapes[1][0], -1, 2))
    return planes[0].reshape(info.height, info.width, 3)
