"""What a TensorRT says and how far a build is: its logger and its progress monitor, tamed.

TensorRT keeps the first logger it is given for the life of the process, so there is one per
module; whoever wants to hear what a call said opens a window on it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

OnProgress = Callable[[float, str], bool]
"""Takes (fraction done in 0..1, what is being done); False cancels the build."""

REMEMBERED = 20
"""Messages kept outside a window, for the error after next."""


@dataclass(frozen=True, slots=True)
class Message:
    """One line of the runtime's log."""

    severity: str
    """``INTERNAL_ERROR``, ``ERROR`` or ``WARNING``; lesser ones are not kept."""
    text: str

    @property
    def is_error(self) -> bool:
        """Whether the call that said it failed."""
        return self.severity != "WARNING"


class TrtLog:
    """Collects warnings and errors. Called from the runtime's own threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[Message] = deque(maxlen=REMEMBERED)
        self._window: list[Message] | None = None
        self._turn = threading.Lock()
        self.logger: Any = None
        """The object that the runtime takes."""

    def add(self, severity: str, text: str) -> None:
        """Takes one message; never raises, because it is called from C++."""
        message = Message(severity, " ".join(str(text).split()))
        with self._lock:
            self._recent.append(message)
            if self._window is not None:
                self._window.append(message)

    @contextmanager
    def listening(self) -> Iterator[list[Message]]:
        """Everything said inside the block. One listener at a time: builds take turns."""
        with self._turn:
            window: list[Message] = []
            with self._lock:
                self._window = window
            try:
                yield window
            finally:
                with self._lock:
                    self._window = None

    def last_error(self) -> str:
        """The newest error, or a sentence that there was none."""
        with self._lock:
            errors = [message.text for message in self._recent if message.is_error]
        return errors[-1] if errors else "the runtime gave no reason"


@cache
def log_of(trt: Any) -> TrtLog:
    """The log of a TensorRT module, made on first use."""
    log = TrtLog()

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                log.add(str(severity).rpartition(".")[2], message)

    log.logger = Logger()
    return log


@dataclass(slots=True)
class _Phase:
    steps: int
    parent: str | None
    done: int = 0
    inner: float = 0.0


@dataclass(slots=True)
class ProgressTree:
    """Turns TensorRT's nested phases into one fraction that never falls."""

    on_progress: OnProgress
    cancelled: bool = False
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _reached: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins inside ``parent`` (None: it is the whole build)."""
        with self._lock:
            self._phases[phase] = _Phase(max(steps, 1), parent)

    def step_complete(self, phase: str, step: int) -> bool:
        """One step is done. False: stop building."""
        with self._lock:
            self._advance(phase, step + 1)
            fraction = self._reached
        self.cancelled = self.cancelled or not self.on_progress(fraction, phase)
        return not self.cancelled

    def phase_finish(self, phase: str) -> None:
        """The phase is over, complete or not."""
        with self._lock:
            self._phases.pop(phase, None)

    def _advance(self, name: str, done: int) -> None:
        phase = self._phases.get(name)
        if phase is None:
            return
        phase.done, phase.inner = done, 0.0
        while phase.parent is not None and (parent := self._phases.get(phase.parent)):
            parent.inner = min((phase.done + phase.inner) / phase.steps, 1.0)
            phase = parent
        self._reached = max(self._reached, min((phase.done + phase.inner) / phase.steps, 1.0))


def progress_monitor(trt: Any, tree: ProgressTree) -> Any:
    """The object that the builder takes."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tree.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return tree.step_complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            tree.phase_finish(phase_name)

    return Monitor()
