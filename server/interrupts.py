"""^C and SIGTERM of a command: an exception at once, or a question that long work asks itself.

An exception out of the blue is fine for a picture. A video has shared memory and child processes in
mid-air, so there the signal only sets a flag, and the session stops where it can clean up.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Interrupted(KeyboardInterrupt):
    """The command was told to stop."""


class Interrupts:
    """Handles SIGINT and SIGTERM while it is entered; main thread only."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._deferred = False
        self._previous: dict[int, object] = {}

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as shells do it."""
        return 128 + (self._number or signal.SIGINT)

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """In this block the first signal only makes ``asked`` true; a second one still raises."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self._number = self._number is None, number
        if not (self._deferred and first):
            raise Interrupted

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what it gave us itself
