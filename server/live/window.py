"""Which frame is worked on next, which waits, and which is dropped. Pure; knows no clock.

``latest``: one frame may wait, and a newer one takes its place. ``lossless``: no frame is ever
dropped; whoever reads the client stops while ``has_room`` is false.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

LiveMode = Literal["latest", "lossless"]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame of the client."""

    number: int
    """Which of the client's frames it is, from 0."""
    payload: bytes
    at: float
    """When it arrived; the window only passes it on."""


class OutOfOrder(Exception):
    """A result that is not the one of the oldest frame in work."""


class FrameWindow:
    """Frames between the client and the engine.

    Args:
        mode: see the module.
        capacity: frames in work at once, at least 1.
    """

    def __init__(self, mode: LiveMode, capacity: int) -> None:
        self._mode = mode
        self._capacity = capacity
        self._waiting: Arrived | None = None
        self._working: deque[Arrived] = deque()
        self.received = 0
        self.dropped = 0
        self.answered = 0

    @property
    def has_room(self) -> bool:
        """Whether the next frame may be read from the client."""
        return self._mode == "latest" or self._waiting is None

    @property
    def has_waiting(self) -> bool:
        """Whether a frame waits to be taken."""
        return self._waiting is not None

    @property
    def in_work(self) -> int:
        """Frames that were taken and not answered."""
        return len(self._working)

    @property
    def is_empty(self) -> bool:
        """Whether every frame that was not dropped has been answered."""
        return self._waiting is None and not self._working

    def offer(self, payload: bytes, at: float) -> None:
        """The client's next frame. Raises OutOfOrder when there was no room for it."""
        if not self.has_room:
            raise OutOfOrder("a frame came while none was to be read")
        if self._waiting is not None:
            self.dropped += 1
        self._waiting = Arrived(self.received, payload, at)
        self.received += 1

    def refuse(self) -> None:
        """Counts the client's next frame and drops it."""
        self.received += 1
        self.dropped += 1

    def take(self) -> Arrived | None:
        """The next frame to work on; None while there is none, or enough are in work."""
        if self._waiting is None or len(self._working) >= self._capacity:
            return None
        frame, self._waiting = self._waiting, None
        self._working.append(Arrived(frame.number, b"", frame.at))  # the pixels are with the engine
        return frame

    def answer(self, number: int) -> Arrived:
        """The frame that a result belongs to. Raises OutOfOrder unless it is the oldest."""
        if not self._working or self._working[0].number != number:
            raise OutOfOrder(f"a result of frame {number} came out of turn")
        self.answered += 1
        return self._working.popleft()


class Pace:
    """Lets at most so many frames a second pass, a few at once.

    Args:
        per_second: in the long run.
        burst: at once, after a pause.
    """

    def __init__(self, per_second: float, burst: int = 4) -> None:
        self._step = 1 / per_second
        self._slack = (burst - 1) * self._step
        self._due = float("-inf")

    def wait_seconds(self, now: float) -> float:
        """How long the next frame would have to wait; 0 when it may pass."""
        return max(0.0, self._due - self._slack - now)

    def take(self, now: float) -> None:
        """One frame passes."""
        self._due = max(self._due, now) + self._step
