"""A decoded picture on its way out of the child: packed there, checked and unpacked here.

Both sides use this module, so that what one writes and what the other believes stand together.
"""

from __future__ import annotations

import json
import os
import select
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from engine.frames import Bytes
from server.media.errors import MediaError, OverLimit, UnsupportedMedia, UnusableMedia
from server.media.pictures import MEDIA_TYPES, Picture, PictureLimits

_MAX_HEADER_BYTES = 2**16
_MAX_NOTES = 32
_ERRORS: dict[str, type[MediaError]] = {
    "UnsupportedMedia": UnsupportedMedia,
    "UnusableMedia": UnusableMedia,
}


def pack_picture(picture: Picture) -> list[bytes | memoryview]:
    """Length of the header, header (JSON), colour, alpha, ICC, EXIF."""
    blobs = [picture.icc or b"", picture.exif or b""]
    header = {
        "height": picture.height,
        "width": picture.width,
        "grey": picture.is_grey,
        "alpha": picture.alpha is not None,
        "format": picture.format,
        "icc": len(blobs[0]),
        "exif": len(blobs[1]),
        "notes": picture.notes,
    }
    planes = [picture.colour] if picture.alpha is None else [picture.colour, picture.alpha]
    return [_framed(header), *(plane.data.cast("B") for plane in planes), *blobs]


def pack_error(error: MediaError) -> bytes:
    """The error in place of a picture."""
    kind = type(error).__name__
    detail = {"status": error.status, "code": error.code, "message": error.message}
    return _framed({"error": kind, **detail, "limit": error.limit, "actual": error.actual})


def _framed(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "big") + text


def pack_request(limits: PictureLimits, keep_gps: bool) -> bytes:
    """The message that goes with the two file descriptors of a request."""
    return json.dumps({"limits": asdict(limits), "keep_gps": keep_gps}).encode()


class ResultPipe:
    """Exact reads from a child with a deadline; EOFError when it ended or the time is over."""

    def __init__(self, descriptor: int, deadline: float) -> None:
        self._descriptor = descriptor
        self._deadline = deadline
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def read_into(self, view: memoryview) -> None:
        """Fills ``view``. Raises EOFError."""
        while view:
            remaining_ms = (self._deadline - time.monotonic()) * 1000
            if remaining_ms <= 0 or not self._poll.poll(remaining_ms):
                raise EOFError("deadline")
            count = os.readv(self._descriptor, [view])
            if count == 0:
                raise EOFError("the child ended")
            view = view[count:]

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises EOFError."""
        buffer = bytearray(size)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def read_plane(self, *shape: int) -> Bytes:
        """A new uint8 array. Raises EOFError."""
        plane = np.empty(shape, np.uint8)
        self.read_into(plane.data.cast("B"))
        return plane


def receive_picture(pipe: ResultPipe, limits: PictureLimits) -> Picture:
    """What a child wrote, believed only within ``limits``.

    Raises:
        MediaError: the child's own.
        EOFError, ValueError, KeyError, TypeError: the child ended, or talks nonsense.
    """
    size = int.from_bytes(pipe.read(4), "big")
    if size > _MAX_HEADER_BYTES:
        raise EOFError("not a header")
    header = json.loads(pipe.read(size))
    if "error" in header:
        raise _error(header)
    height, width = int(header["height"]), int(header["width"])
    sizes = int(header["icc"]), int(header["exif"])
    if (
        not 0 < height * width <= limits.max_pixels
        or not all(0 <= blob <= limits.max_bytes for blob in sizes)
        or header["format"] not in MEDIA_TYPES
    ):
        raise EOFError("the child lies")
    colour = pipe.read_plane(height, width, *(() if header["grey"] else (3,)))
    alpha = pipe.read_plane(height, width) if header["alpha"] else None
    icc, exif = (pipe.read(blob) or None for blob in sizes)
    notes = tuple(str(note) for note in header["notes"][:_MAX_NOTES])
    return Picture(colour, alpha, header["format"], icc, exif, notes)


def _error(header: dict[str, Any]) -> MediaError:
    given = {name: header[name] for name in ("code", "limit", "actual")}
    if header["error"] == "OverLimit":
        return OverLimit(header["message"], status=header["status"], **given)
    return _ERRORS.get(header["error"], UnusableMedia)(header["message"], **given)
