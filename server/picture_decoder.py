"""Decodes users' pictures in child processes, seen from the process that wants the pixels.

Nothing here looks into the picture; what comes back from a child is checked before it is believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from engine.closing import Closing
from server.media.errors import UnusableMedia
from server.media.pictures import Picture, PictureLimits
from server.picture_wire import ResultPipe, pack_request, receive_picture

RECYCLE_AFTER = 10_000
"""Pictures after which the warm process is replaced, so that no leak in it can grow."""

_GRACE_SECONDS = 5.0
_NOT_ALIVE = "the picture decoder does not stay alive; the installation is broken"
_PIPE_BYTES = 2**20
"""Capacity asked for, so that a large picture crosses in fewer turns."""


class PictureDecoder(Closing):
    """Owns the warm process; safe to use from several threads at once, one child per picture."""

    def __init__(self, recycle_after: int = RECYCLE_AFTER) -> None:
        self._recycle_after = recycle_after
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._served = 0

    def decode(
        self, source: Path | bytes, limits: PictureLimits | None = None, *, keep_gps: bool = True
    ) -> Picture:
        """The picture in a file or in memory; the caller owns its arrays.

        Raises:
            MediaError: see ``server.media.picture_modes.decode_picture``; also when the child
                crashed, ran out of its memory or needed longer than ``limits.decode_seconds``.
            OSError: ``source`` cannot be read.
            RuntimeError: the warm process ends before it reads anything; a broken installation.
        """
        limits = limits or PictureLimits()
        with _opened(source) as picture_fd:
            try:
                return self._attempt(picture_fd, limits, keep_gps)
            except UnusableMedia:
                if not self._warm_process_died():
                    raise
            try:
                return self._attempt(picture_fd, limits, keep_gps)  # the request was lost with it
            except UnusableMedia as error:
                if self._warm_process_died():
                    raise RuntimeError(_NOT_ALIVE) from error
                raise

    def _attempt(self, picture_fd: int, limits: PictureLimits, keep_gps: bool) -> Picture:
        deadline = time.monotonic() + limits.decode_seconds + _GRACE_SECONDS
        result_fd, child_end = os.pipe()
        try:
            try:
                with contextlib.suppress(OSError):  # over the user's quota of pipe memory
                    fcntl.fcntl(result_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                self._send(pack_request(limits, keep_gps), [picture_fd, child_end])
            finally:
                os.close(child_end)
            return receive_picture(ResultPipe(result_fd, deadline), limits)
        except (EOFError, ValueError, KeyError, TypeError) as error:  # it ended, or talks nonsense
            raise _why_it_ended(deadline, limits) from error
        finally:
            os.close(result_fd)

    def _warm_process_died(self) -> bool:
        """Whether the other end of the socket is gone; the kernel closes it before our pipe."""
        with self._lock:
            if self._requests is None:
                return True
            hang_up = select.poll()
            hang_up.register(self._requests, select.POLLHUP)
            return bool(hang_up.poll(0))

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        with self._lock:
            if self._requests is None or self._served >= self._recycle_after:
                self._restart()
            assert self._requests is not None
            try:
                socket.send_fds(self._requests, [message], descriptors)
            except OSError:  # the warm process was killed; a new one has seen no request yet
                self._restart()
                try:
                    socket.send_fds(self._requests, [message], descriptors)
                except OSError as error:
                    raise RuntimeError(_NOT_ALIVE) from error
            self._served += 1

    def _restart(self) -> None:
        self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server.picture_child"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        self._requests, self._served = ours, 0

    def _stop(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            self._process.wait()
        self._requests = self._process = None

    @property
    def pid(self) -> int | None:
        """Process id of the warm process; None before the first picture."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Ends the warm process; pictures in flight are still delivered."""
        with self._lock:
            self._stop()


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[int]:
    """A descriptor from which a child can read and seek ``source``."""
    if isinstance(source, Path):
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    else:
        descriptor = os.memfd_create("picture")
    try:
        if not isinstance(source, Path):
            view = memoryview(source)
            while view:
                view = view[os.write(descriptor, view) :]
        yield descriptor
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    """Only what the interpreter needs: no keys, no proxies, no thread pools of libraries."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "PYTHONSAFEPATH": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "LC_ALL": "C.UTF-8",
    }


def _why_it_ended(deadline: float, limits: PictureLimits) -> UnusableMedia:
    if time.monotonic() >= deadline - _GRACE_SECONDS:
        return UnusableMedia(
            f"The picture was not decoded within {limits.decode_seconds:g} s; "
            "send a smaller or simpler one.",
            code="no_progress",
        )
    return UnusableMedia(
        "The decoding of this picture failed; it may be damaged or need too much memory.",
        code="crashed",
    )
