"""Pictures that a worker goes on with: handed out while it is still at the one before.

Otherwise a worker would rest between two short pictures until HTTP has heard of the first one's end
and sent the next, which takes long where HTTP answers many at once. Nobody may be worse off for it:
pictures are handed out ahead only while every worker is busy and all of them get as many, behind
short ones, and come back when somebody else could begin sooner, because they have nothing to do or
because the one before takes long. Until a worker begins with it, a picture counts as waiting.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from server.workers.process import WorkerDied
from server.workers.slot import Handed, Slot
from server.workers.ticket import Ticket

DEPTH = 3
"""Pictures in a worker's hands beside the one it is at."""


class Ahead:
    """Decides who gets a second picture and when it comes back.

    Args:
        slots: of the pool, which adds and removes some.
        queue: of pictures.
        wake: makes idle slots look again for something to do.
        seconds: how long a picture may wait in the hands of a worker.
        recycle_tasks: a worker that is replaced after the picture it is at gets no other.
    """

    def __init__(
        self,
        slots: list[Slot],
        queue: deque[Ticket],
        wake: Callable[[], None],
        *,
        seconds: float,
        recycle_tasks: int,
    ) -> None:
        self._slots = slots
        self._queue = queue
        self._wake = wake
        self._seconds = seconds
        self._recycle_tasks = recycle_tasks

    @property
    def waiting(self) -> int:
        """Pictures in the hands of workers that have not begun with them."""
        return sum(
            not handed.ticket.cancel_requested.is_set()
            for slot in self._slots
            for handed in slot.ahead
        )

    def hand_out(self) -> None:
        """Gives pictures to the workers that may have some: call it when one was queued, begun or
        given back."""
        if not self._queue or any(slot.state == "idle" for slot in self._slots):
            return
        now = asyncio.get_running_loop().time()
        takers = [slot for slot in self._slots if self._may_have_some(slot, now)]
        takers.sort(key=lambda slot: slot.began_at)
        for level in range(DEPTH):
            lower = [slot for slot in takers if len(slot.ahead) <= level < self._depth(slot)]
            if len(self._queue) < len(lower):
                return  # whoever is done first takes the next one
            for slot in lower:
                self._hand(slot)

    def call_back(self) -> bool:
        """For an idle worker: whether pictures may come back that others have not begun."""
        held = [slot for slot in self._slots if slot.ahead and not slot.is_asked_back]
        if not held:
            return False
        self._ask_back(max(held, key=lambda slot: (len(slot.ahead), slot.began_at)))
        # A worker that hangs answers never: then its pictures wait for its end.
        asyncio.get_running_loop().call_later(self._seconds, self._wake)
        return True

    def taken_back(self, slot: Slot, numbers: list[int]) -> list[Ticket]:
        """What ``slot`` holds no more, the last that was handed out first."""
        slot.is_asked_back = False
        tickets = []
        while slot.ahead and slot.ahead[-1].number in numbers:
            tickets.append(slot.ahead.pop().ticket)
        return tickets

    def drop(self, ticket: Ticket) -> bool:
        """Whether ``ticket``, which nobody wants any more, was in somebody's hands."""
        for slot in self._slots:
            for handed in slot.ahead:
                if handed.ticket is ticket and slot.worker is not None:
                    slot.worker.cancel(handed.number)
                    return True
        return False

    def _may_have_some(self, slot: Slot, now: float) -> bool:
        worker, ticket = slot.worker, slot.ticket
        return (
            worker is not None
            and worker.has_begun
            and ticket is not None
            and ticket.kind == "picture"
            and not ticket.cancel_requested.is_set()
            and not slot.is_asked_back
            and not slot.retired
            and now - slot.began_at <= self._seconds
        )

    def _depth(self, slot: Slot) -> int:
        """How many pictures ``slot`` may hold: as many as it makes in the time that one may wait,
        and none beyond its worker's wear."""
        by_pace = math.floor(self._seconds / max(slot.last_seconds, 1e-3))
        return min(DEPTH, by_pace, self._recycle_tasks - slot.wear - 1)

    def _hand(self, slot: Slot) -> None:
        assert slot.worker is not None
        ticket = self._queue[0]
        try:
            handed = Handed(ticket, slot.worker.give(ticket.task))
        except WorkerDied:  # its own slot hears of it
            return
        slot.ahead.append(handed)
        self._queue.popleft()
        if len(self._slots) > 1:
            loop = asyncio.get_running_loop()
            loop.call_later(self._seconds, self._end_patience, slot, handed)

    def _end_patience(self, slot: Slot, handed: Handed) -> None:
        if handed in slot.ahead:
            self._ask_back(slot)

    def _ask_back(self, slot: Slot) -> None:
        if not slot.is_asked_back and slot.worker is not None:
            slot.is_asked_back = True
            slot.worker.take_back()
