"""The parent's side of a media child: start it, talk to it, kill it.

A child is one process for one job. Whatever goes wrong in it (a crash, a hang, too much memory)
ends that job with a typed error and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.closing import Closing
from server.media.errors import (
    CodecUnavailable,
    DiskFull,
    EncodeError,
    MediaError,
    OverLimit,
    UnsupportedMedia,
    UnusableMedia,
)
from server.media.wire import Message, Receiver, Ring, WireClosed, WireTimeout, send

_F_ADD_SEALS = 1033
_SEAL_SIZE = 0x1 | 0x2 | 0x4  # no more seals, no shrinking, no growing
_ERRORS: dict[str, type[MediaError]] = {
    "UnsupportedMedia": UnsupportedMedia,
    "UnusableMedia": UnusableMedia,
    "OverLimit": OverLimit,
}
_ENCODE_ERRORS: dict[str, type[EncodeError]] = {
    "CodecUnavailable": CodecUnavailable,
    "DiskFull": DiskFull,
    "EncodeError": EncodeError,
}


class Child(Closing):
    """A running ``python -m MODULE`` with a command pipe, an answer pipe and shared memory."""

    def __init__(self, module: str, work: str, pass_fds: Sequence[int] = ()) -> None:
        """Starts the child.

        Args:
            module: what to run.
            work: what it does, for messages: ``decoding``, ``encoding`` or ``joining``.
            pass_fds: further descriptors it inherits under the same numbers.

        Raises:
            OSError: no process could be started.
        """
        self._work = work
        self.memory_fd = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._ring: Ring | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(self.memory_fd)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=(self.memory_fd, *pass_fds),
                env=_environment(),
                start_new_session=True,
            )
        except OSError:
            os.close(self.memory_fd)
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._receiver = Receiver(self._stdout.fileno())

    def map_ring(self, slots: int, slot_bytes: int) -> Ring:
        """Sizes the shared memory, seals its size and maps it. Once per child."""
        os.ftruncate(self.memory_fd, slots * slot_bytes)
        fcntl.fcntl(self.memory_fd, _F_ADD_SEALS, _SEAL_SIZE)
        self._ring = Ring(self.memory_fd, slots, slot_bytes)
        return self._ring

    def send(self, message: Message) -> None:
        """Sends ``message``. Raises MediaError when the child is gone."""
        try:
            send(self._stdin.fileno(), message)
        except WireClosed:
            # Its last words say why, and they are still in the answer pipe.
            self._raise_last_words()

    def tell(self, message: Message) -> None:
        """Like ``send``, but a child that has already finished does not mind."""
        with contextlib.suppress(WireClosed):
            send(self._stdin.fileno(), message)

    def receive(self, timeout_seconds: float, check: Callable[[], None] | None = None) -> Message:
        """The next message that is not an error.

        Raises:
            MediaError, EncodeError: what the child reported, its death, or its silence.
        """
        try:
            message = self._receiver.receive(timeout_seconds, check)
        except WireClosed:
            raise self._death() from None
        except WireTimeout:
            raise self._fault(
                f"made no progress for {timeout_seconds:.0f} s", "no_progress"
            ) from None
        if message.get("type") == "error":
            raise error_from_message(message)
        return message

    def has_message(self) -> bool:
        """Whether ``receive`` would return at once."""
        return self._receiver.ready()

    def _raise_last_words(self) -> None:
        while True:
            self.receive(5.0)

    def _death(self) -> MediaError | EncodeError:
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            status = 0
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return self._fault(f"failed ({name})", "crashed")

    def _fault(self, what: str, code: str) -> MediaError | EncodeError:
        """Decoding fails because of the file, anything else because of us."""
        if self._work == "decoding":
            text = f"The decoding of this video {what}; it may be damaged or too large."
            return UnusableMedia(text, code=code)
        return EncodeError(f"The {self._work} of this video {what}; try another codec or size.")

    @property
    def pid(self) -> int:
        """Process id, for the tests that kill it."""
        return self._process.pid

    def close(self) -> None:
        """Kills the child if it still runs and frees everything; harmless when called twice."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
            self.memory_fd = -1


def error_message(error: MediaError | EncodeError) -> Message:
    """``error`` as a message that ``error_from_message`` turns back into it."""
    message: Message = {"type": "error", "class": type(error).__name__, "message": str(error)}
    if isinstance(error, MediaError):
        message |= {"code": error.code, "limit": error.limit, "actual": error.actual}
    return message


@contextmanager
def errors_reported(answers: int, deed: str) -> Iterator[None]:
    """Sends what the body raises to the parent: the outermost edge of a child that parses.

    Args:
        answers: the descriptor of the answers.
        deed: what is done to the video: ``decoded``.
    """
    try:
        yield
    except MediaError as error:
        send(answers, error_message(error))
    except MemoryError:
        text = f"The video needs more memory to be {deed} than is allowed."
        send(answers, error_message(UnusableMedia(text, code="too_much_memory")))
    # Whatever else a parser of user bytes throws is the file's.
    except Exception as error:
        text = f"The video cannot be {deed} ({type(error).__name__}); it may be damaged."
        send(answers, error_message(UnusableMedia(text, code="corrupt")))


def error_from_message(message: Message) -> MediaError | EncodeError:
    """The exception that a child reported."""
    name = str(message.get("class"))
    text = str(message.get("message"))[:500]
    if name in _ENCODE_ERRORS:
        return _ENCODE_ERRORS[name](text)
    kind = _ERRORS.get(name, UnusableMedia)
    return kind(
        text,
        code=str(message.get("code") or kind.code),
        limit=message.get("limit"),
        actual=message.get("actual"),
    )


def _environment() -> dict[str, str]:
    """Only what the interpreter needs: no keys, no proxies, no thread pools of libraries."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
