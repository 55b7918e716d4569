"""The process that decodes users' pictures: a warm parent that forks one child per picture.

The parent imports Pillow once, gives up the network, and never reads a user's byte. Each
request carries two open file descriptors, the picture and a pipe for the result; the forked child
limits itself, decodes, writes and exits. A child that crashes, runs out of memory or hangs (SIGALRM
ends it even inside a C decoder) takes nothing with it. When the other end of the socket closes,
the parent exits.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys

from server.media import landlock, sandbox, syscall_filter
from server.media.errors import MediaError, UnusableMedia
from server.media.picture_modes import decode_picture
from server.media.pictures import PictureLimits
from server.picture_wire import pack_error, pack_picture

MAX_REQUEST_BYTES = 4096
BASE_MEMORY_BYTES = 2**30
"""Address space for the interpreter and the libraries."""
MEMORY_BYTES_PER_PIXEL = 40
"""Further address space for each pixel that the limits allow: Pillow, NumPy and the result."""


def main() -> int:
    """Serves requests from the socket on file descriptor 0 until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C is for our parent to handle
    with socket.socket(fileno=os.dup(0)) as requests:
        # A child that lives longer than this process must not keep the socket open.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        give_up()
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 2)
            if not message:
                return 0
            request = json.loads(message)
            limits = PictureLimits(**request["limits"])
            if os.fork() == 0:
                requests.close()
                _run_child(limits, request["keep_gps"], *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            _reap()


def give_up() -> None:
    """What no child needs: the network, privileges, files.

    Done once and before the forks: whatever a child does for the first time copies pages.
    """
    sandbox.isolate()
    landlock.see_only(())
    syscall_filter.prepared()
    gc.disable()
    gc.freeze()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run_child(limits: PictureLimits, keep_gps: bool, picture_fd: int, result_fd: int) -> None:
    """Decodes one picture, writes the outcome and ends the process."""
    limit_process(limits)
    try:
        with open(picture_fd, "rb") as stream:  # a descriptor, not a path
            picture = decode_picture(stream, limits, keep_gps=keep_gps)
        parts = pack_picture(picture)
    except MediaError as error:
        parts = [pack_error(error)]
    except Exception:  # the edge of the process: whatever a decoder raises is the picture's fault
        parts = [pack_error(UnusableMedia("The picture cannot be decoded; send an intact one."))]
    with open(result_fd, "wb", buffering=0) as pipe:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[pipe.write(view) :]
    os._exit(0)


def limit_process(limits: PictureLimits) -> None:
    """What is left after ``give_up`` to decode one picture: memory, time, and few system calls."""
    memory = BASE_MEMORY_BYTES + MEMORY_BYTES_PER_PIXEL * limits.max_pixels
    sandbox.limit(memory_bytes=memory, cpu_seconds=None, may_write_files=False)
    signal.setitimer(signal.ITIMER_REAL, limits.decode_seconds)
    syscall_filter.install()


if __name__ == "__main__":
    sys.exit(main())
