"""JPEG frames of a live stream, decoded in a child process, seen from the engine worker."""

from __future__ import annotations

import numpy as np

from engine.closing import Closing
from engine.frames import Bytes
from server.live.wire import frame_bytes
from server.media.child import Child
from server.media.errors import UnusableMedia

START_SECONDS, FRAME_SECONDS = 30.0, 5.0


class JpegDecoder(Closing):
    """A decode child for frames of one size. For one thread at a time.

    Args:
        width: pixels of every frame.
        height: as ``width``.

    Raises:
        MediaError: the child does not start.
    """

    def __init__(self, width: int, height: int) -> None:
        self._shape = (height, width, 3)
        self._size = frame_bytes("jpeg", width, height)
        self._child = Child("server.live.jpeg_child", "decoding")
        try:
            self._ring = self._child.map_ring(1, self._size)
            self._child.send({"type": "start", "width": width, "height": height})
            self._child.receive(START_SECONDS)
        except BaseException:
            self._child.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def decode(self, data: bytes) -> Bytes:
        """The pixels (H, W, 3) of a JPEG of the announced size; the caller owns them.

        Raises:
            MediaError: damaged, another size, not a JPEG, or the child ended over it.
        """
        if len(data) > self._size:
            raise UnusableMedia("The frame is larger than its pixels; send a smaller JPEG.")
        height, width, _ = self._shape
        slot = self._ring.slot(0)
        try:
            slot[: len(data)] = data
            self._child.send({"type": "decode", "length": len(data)})
            self._child.receive(FRAME_SECONDS)
            return np.frombuffer(slot, np.uint8, height * width * 3).reshape(self._shape).copy()
        finally:
            slot.release()

    def close(self) -> None:
        """Ends the child; harmless when called twice."""
        self._child.close()
