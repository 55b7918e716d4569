"""The product's server whose engine stops before a frame until a test lets it go on.

``python -m tests.server.gated_server … FRAME FOLDER``; its workers are this module, too. A worker
counts its frames in FOLDER/frames, the first one of its own included; before number FRAME it makes
FOLDER/reached and waits for a writer of the FIFO FOLDER/gate, who may write ``fault`` or ``bug``,
or ``left`` when the client has left: then it goes on once the worker has been told so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.backends.base import Lane, LaneSpec
from engine.backends.nearest import NearestBackend, NearestLane
from engine.errors import EngineFault
from engine.frames import Frame
from server import __main__ as product
from server.app import create_app
from server.workers import __main__ as worker
from server.workers import child, tasks
from server.workers.child import TaskContext

_PATIENCE_SECONDS = 60.0


@dataclass
class GatedBackend(NearestBackend):
    """Repetition with a gate before one frame."""

    at_frame: int
    folder: Path
    told_to_stop: Callable[[float], bool]
    """Waits at most so many seconds until the task is cancelled, and returns whether it is."""
    frames: int = 0

    def open_lanes(self, spec: LaneSpec, count: int) -> list[Lane]:
        return [_GatedLane(spec, self) for _ in range(count)]

    def pass_gate(self) -> None:
        self.frames += 1
        if self.frames == self.at_frame:
            (self.folder / "reached").touch()
            match (self.folder / "gate").read_bytes():
                case b"fault":
                    raise EngineFault("an illegal memory access was encountered (700)")
                case b"left":
                    assert self.told_to_stop(_PATIENCE_SECONDS)
                case b"bug":
                    raise RuntimeError("a bug of ours")
        (self.folder / "frames").write_text(str(self.frames))


class _GatedLane(NearestLane):
    def __init__(self, spec: LaneSpec, backend: GatedBackend) -> None:
        super().__init__(spec)
        self._backend = backend

    def finish(self) -> Frame:
        self._backend.pass_gate()
        return super().finish()


def _serve(gate: list[str]) -> int:
    command = (sys.executable, "-m", "tests.server.gated_server", "--worker", *gate)
    product.create_app = partial(create_app, worker_command=command)  # type: ignore[assignment]
    return product.main()


def _work(gate: list[str]) -> int:
    contexts: list[TaskContext] = []

    def noted(*arguments: Any) -> TaskContext:
        contexts.append(TaskContext(*arguments))
        return contexts[-1]

    def told_to_stop(seconds: float) -> bool:
        return contexts[-1].cancelled.wait(seconds)

    def open_gated(*arguments: Any, **options: Any) -> GatedBackend:
        return GatedBackend(int(gate[0]), Path(gate[1]), told_to_stop)

    child.TaskContext = noted  # type: ignore[assignment,misc]
    tasks.open_backend = open_gated  # type: ignore[assignment]
    return worker.main()


def main() -> int:
    if sys.argv[1] == "--worker":
        gate = sys.argv[2:4]
        del sys.argv[1:4]
        return _work(gate)
    gate = sys.argv[-2:]
    del sys.argv[-2:]
    return _serve(gate)


if __name__ == "__main__":
    sys.exit(main())
