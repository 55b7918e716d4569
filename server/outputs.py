"""Streams that a growing video is written to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_PIPE_READ_BYTES = 256 * 1024


class ByteSink(Protocol):
    """Where a streamed video goes."""

    def write(self, data: bytes, /) -> object:
        """Takes all of ``data``; may block, which slows the whole session down."""


class WritingEnd:
    """The writing end of a pipe, closed exactly once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Closes it; harmless when called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@contextmanager
def pipe_into(
    sink: ByteSink, check: Callable[[], None]
) -> Iterator[tuple[WritingEnd, Callable[[], None]]]:
    """A pipe whose other end a thread reads into ``sink``; its errors surface in the check."""
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def drain() -> None:
        try:
            while data := os.read(reading, _PIPE_READ_BYTES):
                sink.write(data)
        # Whatever a sink does (a client that left, a full disk) is told to the session.
        except BaseException as error:
            failures.append(error)
        finally:
            os.close(reading)

    def guard() -> None:
        check()
        if failures:
            raise failures[0]

    thread = threading.Thread(target=drain, name="drain", daemon=True)
    thread.start()
    try:
        yield WritingEnd(writing), guard
    except BaseException:
        thread.join(5.0)
        raise
    thread.join()
    if failures:
        raise failures[0]
