"""A place for one worker, what is known of the worker in it, and what others mean for it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

from server.workers.channel import Message
from server.workers.process import WorkerProcess
from server.workers.ticket import Ticket
from server.workers.watchdog import Watchdog


@dataclass(frozen=True, eq=False, slots=True)
class Handed:
    """A ticket that was sent to a worker."""

    ticket: Ticket
    number: int
    """Of the task, in that worker."""


@dataclass(slots=True)
class Slot:
    """A place for one worker and what is known of the worker in it."""

    index: int
    config: Message
    state: str = "starting"
    """``starting``, ``building``, ``idle``, ``busy``, ``restarting`` or ``unusable``."""
    worker: WorkerProcess | None = None
    engine: Message = field(default_factory=dict)
    sandbox: dict[str, bool] = field(default_factory=dict)
    """What the media children of this worker really give up."""
    build: Message | None = None
    """``what`` and ``fraction`` while a plan is built."""
    problem: str | None = None
    """Why the worker cannot start, in one sentence."""
    failures: int = 0
    """Deaths in a row without a finished task."""
    exit_status: int | None = None
    """Of the worker before; a negative one is the signal that ended it."""
    is_stand_in: bool = False
    """Serves only pictures, and only until a real worker is ready."""
    retired: bool = False
    is_up: bool = False
    """Whether its worker has said that it is ready, and lives."""
    works_long: bool = False
    """Whether it is at a ticket that is no picture."""
    ticket: Ticket | None = None
    """What its worker is at."""
    watchdog: Watchdog | None = None
    """Of that."""
    began_at: float = 0.0
    """Loop time of when its worker began with that."""
    wear: int = 0
    """Pictures that its worker has made; other tickets count as many."""
    last_seconds: float = math.inf
    """What its worker's last picture took."""
    ahead: deque[Handed] = field(default_factory=deque)
    """Pictures that its worker has been given to go on with, and has not begun."""
    is_asked_back: bool = False
    """Whether the worker has been asked to return them."""

    def come_up(self, worker: WorkerProcess) -> None:
        """The worker has said that it is ready."""
        self.engine, self.build, self.sandbox = worker.engine, None, worker.sandbox
        self.is_up = True
        self.wear, self.last_seconds = 0, math.inf

    def note_end(self, ticket: Ticket) -> None:
        """The worker has ended ``ticket``; what a picture took tells of the next one."""
        if ticket.kind == "picture" and self.worker is not None and self.worker.has_begun:
            self.last_seconds = asyncio.get_running_loop().time() - self.began_at


def another_device_is_free(slot: Slot, slots: list[Slot]) -> bool:
    """Whether ``slot`` would make its device do two long things while another one rests."""
    loaded = {each.config.get("device") for each in slots if each.works_long}
    return slot.config.get("device") in loaded and any(
        each.state == "idle" and not each.is_stand_in and each.config.get("device") not in loaded
        for each in slots
    )


def another_is_away(slot: Slot, slots: list[Slot]) -> bool:
    """Whether ``slot`` must stay: workers wear out at the same pace, and a start takes a second
    in which nobody would serve."""
    return any(
        not each.is_up and each.state != "unusable" and not each.is_stand_in
        for each in slots
        if each is not slot
    )
