"""The process that decodes the JPEG frames of one live stream: ``… jpeg_child FD``.

Frames come and go in shared memory ``FD``, so starting it once serves the whole stream: a fork per
frame, as for pictures, cost more than the decoding. No network, no file, capped memory; a frame
that hangs or crashes it ends its stream and nothing else.
"""

from __future__ import annotations

import io
import os
import sys

import numpy as np

from engine.frames import Bytes
from server.live.wire import frame_bytes
from server.media.child import error_message
from server.media.errors import MediaError, UnsupportedMedia, UnusableMedia
from server.media.picture_header import read_header
from server.media.picture_modes import decode_picture
from server.media.pictures import PictureLimits
from server.media.sandbox import confine, isolate, limit
from server.media.wire import Inbox, Message, Ring, send

BASE_MEMORY_BYTES = 2**30
MEMORY_BYTES_PER_PIXEL = 40


def main() -> None:
    """Decodes frame after frame until the other side hangs up."""
    isolate()
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    inbox = Inbox(0)
    command = inbox.first()
    width, height = int(command["width"]), int(command["height"])
    ring = Ring(int(sys.argv[1]), 1, frame_bytes("jpeg", width, height))
    pixels = np.frombuffer(ring.slot(0), np.uint8, width * height * 3).reshape(height, width, 3)
    limit(
        memory_bytes=BASE_MEMORY_BYTES + MEMORY_BYTES_PER_PIXEL * width * height,
        cpu_seconds=None,
        may_write_files=False,
    )
    _decode(_black(), pixels[:1, :1])  # Pillow's decoder is loaded while files can be read
    confine()
    inbox.start()  # whose end is ours, even in the middle of a frame
    send(answers, {"type": "ready"})
    while True:
        length = int(inbox.take()["length"])
        send(answers, _answer(bytes(ring.slot(0)[:length]), pixels))


def _answer(data: bytes, pixels: Bytes) -> Message:
    try:
        _decode(data, pixels)
    except MediaError as error:
        return error_message(error)
    except Exception:  # the edge of the process: whatever a decoder raises is the frame's fault
        return error_message(UnusableMedia("The frame cannot be decoded; send an intact JPEG."))
    return {"type": "done"}


def _decode(data: bytes, pixels: Bytes) -> None:
    """JPEG ``data`` into ``pixels`` (H, W, 3). Raises MediaError."""
    stream = io.BytesIO(data)
    header = read_header(stream)
    if header.format != "jpeg":
        raise UnsupportedMedia(f"The frame is a {header.format} where a JPEG was announced.")
    height, width = pixels.shape[:2]
    sides = {header.width, header.height}
    if sides == {width, height}:  # EXIF may still turn it
        limits = PictureLimits(max_pixels=width * height, max_side=max(width, height))
        colour = decode_picture(stream, limits).colour
        if colour.shape[:2] == (height, width):
            pixels[...] = colour if colour.ndim == 3 else colour[..., np.newaxis]
            return
    raise UnusableMedia(
        f"The frame has {header.width}x{header.height} pixels where {width}x{height} were "
        "announced."
    )


def _black() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
