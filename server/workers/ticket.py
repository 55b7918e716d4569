"""A piece of work on its way through the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from server.workers.channel import Message

TicketKind = Literal["picture", "live", "video", "job"]
"""``picture`` is everything short (pictures, probes); the others hold a worker for long."""

KINDS: tuple[TicketKind, ...] = ("picture", "live", "video", "job")
"""In the order in which workers take them."""


def ignore(_: Message) -> None:
    """Hears progress that nobody wants."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One task, its limits and its outcome."""

    kind: TicketKind
    task: Message
    on_event: Callable[[Message], None] = ignore
    total_seconds: float | None = None
    """Killed when it works longer than this."""
    stall_seconds: float | None = None
    """Killed when nothing was heard of it for this long."""
    retries: int = 0
    """How often it may start again after its worker died at it."""
    outcome: asyncio.Future[Message] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """The result of the task. Raises ApiError, or TicketCancelled."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a worker has begun with it for the first time."""
    cancel_requested: asyncio.Event = field(default_factory=asyncio.Event)
    engine: Message = field(default_factory=dict)
    """Who works on it; known once it has started."""
    heard_at: float = 0.0
    """Loop time of the last sign of life."""

    def touch(self) -> None:
        """Tells the watchdog that this is alive."""
        self.heard_at = asyncio.get_running_loop().time()


class TicketCancelled(Exception):
    """The work was cancelled before it was done."""
