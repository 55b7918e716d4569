"""The decode child's own code, forked from one warm process: a thousand files in seconds.

Starting a real child costs 0.12 s of processor time, nearly all of it imports; a fork costs a
hundredth of that. What runs in the fork is ``server.media.decode_child`` with its limits; only the
network name space (``isolate``) and the parent's side of the protocol are left out.

Run as ``python -m tests.reliability.decode_forks``: paths in, one JSON line each out.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from server.manifest import pts_sha256

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 30.0
_SLOTS = 4
_RING_BYTES = 64 * 1024 * 1024


@dataclass
class Outcome:
    """What became of one file."""

    code: str | None = None
    """Of the typed error; None when every frame came out."""
    message: str = ""
    frames: int = 0
    pts_sha256: str | None = None
    damaged: bool = False
    """The decoder noticed damage."""
    died: str | None = None
    """Name of the signal that ended the process; ``hang`` when it was our own."""
    seconds: float = 0.0


class DecodeForks:
    """The warm process, seen from the tests."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.decode_forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            cwd=ROOT,
        )
        return self

    def decode(self, path: Path) -> Outcome:
        """Decodes a file in a fork of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(str(path))}\n")
        return Outcome(**json.loads(self._process.stdout.readline()))

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class _Commands:
    """The command pipe of a parent that empties every slot at once."""

    def __init__(self, command: dict[str, Any]) -> None:
        self._waiting = [command, {"slots": _SLOTS}]
        self._turn = -1

    def start(self) -> None:
        """Nothing to wait for."""

    def first(self) -> dict[str, Any]:
        return self.take()

    def take(self) -> dict[str, Any]:
        if self._waiting:
            return self._waiting.pop(0)
        self._turn += 1
        return {"free": self._turn % _SLOTS}


def _in_fork(path: str, answers: int) -> None:
    """Never returns."""
    from server.media import decode_child
    from server.media.child import errors_reported
    from server.media.decode import DecodeOptions
    from server.media.limits import Limits

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = os.memfd_create("frames")
    os.ftruncate(memory, _RING_BYTES)
    options = DecodeOptions(Limits(), formats=("nv12", "rgb24"))
    inbox: Any = _Commands(asdict(options) | {"source": path})
    with errors_reported(answers, "decoded"):
        decode_child._run(inbox, decode_child._Outlet(inbox, answers, memory), {})
    os._exit(0)


def _decode(path: str) -> Outcome:
    began = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _in_fork(path, writing)
    os.close(writing)
    content, late = bytearray(), False
    while True:
        left = began + HANG_SECONDS - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            late = True
            os.kill(pid, signal.SIGKILL)
            break
        data = os.read(reading, 1 << 16)
        if not data:
            break
        content += data
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    outcome = _read(bytes(content))
    if late:
        outcome.died = "hang"
    elif os.WIFSIGNALED(status):
        outcome.died = signal.Signals(os.WTERMSIG(status)).name
    elif os.WEXITSTATUS(status):
        outcome.died = f"exit {os.WEXITSTATUS(status)}"
    outcome.seconds = round(time.monotonic() - began, 3)
    return outcome


def _read(content: bytes) -> Outcome:
    from fractions import Fraction

    outcome, time_base, pts = Outcome(code="silent"), Fraction(1), []
    for line in content.splitlines():
        with suppress(ValueError):
            message = json.loads(line)
            match message["type"]:
                case "head":
                    time_base = Fraction(message["info"]["time_base"])
                case "frame":
                    pts.append(message["pts"])
                case "error":
                    outcome.code, outcome.message = message["code"], message["message"]
                case "end":
                    outcome.code = None
                    noticed = ("corrupt", "corrupt_packets", "decode_errors", "demux_error")
                    outcome.damaged = any(message[name] for name in noticed)
    outcome.frames = len(pts)
    if pts:
        outcome.pts_sha256 = pts_sha256(pts, time_base)
    return outcome


def main() -> None:
    import av

    from server.media import decode_child  # noqa: F401  # what every fork needs

    av.logging.set_level(None)
    for line in sys.stdin:
        print(json.dumps(asdict(_decode(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
