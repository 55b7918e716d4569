"""What a media child and its parent say to each other: JSON lines and frames in shared memory.

Used by both sides, so it imports next to nothing: the start of a child costs every request.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
"""One JSON object; ``type`` says what it is."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""A longer line means that the other side lost its mind."""

_POLL_SECONDS = 0.2


class WireClosed(Exception):
    """The other side is gone."""


class WireTimeout(Exception):
    """The other side said nothing for too long."""


def send(fd: int, message: Message) -> None:
    """Writes one message. Raises WireClosed."""
    data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        raise WireClosed(str(error)) from error


class Receiver:
    """Reads messages from a pipe with a time-out and a way to give up early."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()

    def receive(
        self, timeout_seconds: float | None = None, check: Callable[[], None] | None = None
    ) -> Message:
        """The next message.

        Args:
            timeout_seconds: how long to wait; ``None`` for ever.
            check: called a few times a second while waiting; may raise to give up.

        Raises:
            WireClosed: end of the stream, or nonsense on it.
            WireTimeout: nothing came in time.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_MESSAGE_BYTES:
                raise WireClosed("a message is too long")
            if check is not None:
                check()
            if not select.select([self._fd], [], [], _POLL_SECONDS)[0]:
                if deadline is not None and time.monotonic() > deadline:
                    raise WireTimeout
                continue
            data = os.read(self._fd, 65536)
            if not data:
                raise WireClosed("end of stream")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return _parse(line)

    def ready(self) -> bool:
        """Whether ``receive`` would return at once."""
        return b"\n" in self._buffer or bool(select.select([self._fd], [], [], 0)[0])


def _parse(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise WireClosed("a message is not JSON") from error
    if not isinstance(message, dict):
        raise WireClosed("a message is not an object")
    return message


class Ring:
    """Equal slots for frames in an anonymous shared memory file."""

    def __init__(self, fd: int, slots: int, slot_bytes: int) -> None:
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._map = mmap.mmap(fd, slots * slot_bytes)
        self._view = memoryview(self._map)

    def slot(self, index: int) -> memoryview:
        """The writable bytes of slot ``index``. Raises WireClosed for a slot that is not there."""
        if not 0 <= index < self.slots:
            raise WireClosed(f"there is no slot {index}")
        return self._view[index * self.slot_bytes : (index + 1) * self.slot_bytes]

    def close(self) -> None:
        """Unmaps the memory; every view of a slot must be gone."""
        self._view.release()
        self._map.close()


def slot_bytes(frame_format: str, height: int, width: int) -> int:
    """Bytes of one frame: ``rgb24`` or ``nv12`` (odd sizes rounded up for the chroma)."""
    if frame_format == "nv12":
        return height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2)
    return height * width * 3


def plane_shapes(frame_format: str, height: int, width: int) -> list[tuple[int, int]]:
    """(rows, bytes per row) of each plane of a frame, in the order in which they are stored."""
    if frame_format == "nv12":
        return [(height, width), ((height + 1) // 2, 2 * ((width + 1) // 2))]
    return [(height, width * 3)]


def copy_rows(
    source: memoryview, target: memoryview, rows: int, strides: Sequence[int], length: int
) -> None:
    """Copies ``rows`` rows of ``length`` bytes; ``strides`` are (source, target) bytes per row."""
    source_stride, target_stride = strides
    if source_stride == target_stride == length:
        target[: rows * length] = source[: rows * length]
        return
    for row in range(rows):
        start, goal = row * source_stride, row * target_stride
        target[goal : goal + length] = source[start : start + length]


class Inbox:
    """The child's end of the command pipe, from ``start`` on read on a thread of its own.

    When the parent is gone the pipe ends and the whole process ends at once, even in the middle
    of a decode: no child outlives its job.
    """

    def __init__(self, fd: int) -> None:
        self._receiver = Receiver(fd)
        self._messages: list[Message] = []
        self._arrived = threading.Condition()

    def first(self) -> Message:
        """Waits for the first message without a thread: what is given up now holds for all."""
        return self._receive()

    def start(self) -> None:
        """Begins to read; ``take`` works from here on."""
        threading.Thread(target=self._pump, name="inbox", daemon=True).start()

    def _receive(self) -> Message:
        try:
            return self._receiver.receive()
        except WireClosed:
            os._exit(0)

    def _pump(self) -> None:
        while True:
            message = self._receive()
            with self._arrived:
                self._messages.append(message)
                self._arrived.notify()

    def take(self) -> Message:
        """Waits for the next message."""
        with self._arrived:
            while not self._messages:
                self._arrived.wait()
            return self._messages.pop(0)
