"""The pipe into which a worker writes a video while HTTP sends it on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.media.errors import Cancelled


@contextmanager
def opened_pipe(path: Path) -> Iterator[PipeSink]:
    """The writing end of a named pipe. Raises Cancelled when its reader has left already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            raise Cancelled("Nobody reads this video any more.") from None
        raise
    try:
        os.set_blocking(descriptor, True)
        yield PipeSink(descriptor)
    finally:
        os.close(descriptor)


class PipeSink:
    """Writes all bytes into a pipe; its reader's end means that nobody wants them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes, /) -> None:
        """Writes all of ``data``. Raises Cancelled when the reader has left."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BrokenPipeError:
                raise Cancelled from None
