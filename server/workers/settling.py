"""How a ticket is told what became of it."""

from __future__ import annotations

import logging

from server.errors import ApiError
from server.logs import log_event
from server.workers.channel import Message
from server.workers.ticket import Ticket, TicketCancelled

_OUR_FAULT = 500


class WorkerLost(ApiError):
    """The worker died or proved unfit in the middle of this: another one may do better."""


def died() -> WorkerLost:
    """What a ticket fails with whose worker died once too often."""
    return WorkerLost("engine_failed", "the worker process died while it worked on this")


def queue_full(kind: str, limit: int, waiting: int) -> ApiError:
    """Why a ticket is not taken."""
    message = f"the queue is full ({waiting} {kind}s wait); try again soon"
    return ApiError("queue_full", message, limit=limit, actual=waiting)


def too_late(queue_seconds: float) -> ApiError:
    """What a ticket fails with that no worker has begun with in time."""
    message = "no worker was free in time; try again soon"
    return ApiError("queue_full", message, limit=queue_seconds)


def hear(ticket: Ticket, message: Message) -> None:
    """Passes progress on."""
    ticket.touch()
    ticket.on_event(message)


def settle(ticket: Ticket, message: Message) -> None:
    """Ends ``ticket`` as the worker says; what is our fault goes to the log."""
    match message["event"]:
        case "done":
            if not ticket.outcome.done():
                ticket.outcome.set_result(message["result"])
        case "cancelled":
            fail(ticket, TicketCancelled())
        case _ if ticket.cancel_requested.is_set():  # its files are gone, so it may have tripped
            fail(ticket, TicketCancelled())
        case _:
            error = ApiError.from_dict(message["error"])
            if error.status >= _OUR_FAULT:
                log_failure(ticket, error, message.get("bug"))
            fail(ticket, error)


def may_go_on(ticket: Ticket, error: ApiError, *, retry: bool = True) -> bool:
    """Whether another worker shall try ``ticket``, whose worker is lost; else it fails."""
    if ticket.cancel_requested.is_set():
        fail(ticket, TicketCancelled())
        return False
    if retry and ticket.retries > 0:
        ticket.retries -= 1
        return True
    log_failure(ticket, error)
    fail(ticket, error)
    return False


def log_failure(ticket: Ticket, error: ApiError, traceback: str | None = None) -> None:
    """Writes what failed and why, with the traceback of a bug."""
    what = {"task": ticket.task.get("kind"), "code": error.code, "problem": error.message}
    if traceback is None:
        log_event("task_failed", logging.WARNING, **what)
    else:
        log_event("task_bug", logging.ERROR, **what, traceback=traceback)


def fail(ticket: Ticket, error: Exception) -> None:
    """Ends ``ticket`` with ``error``, unless it has ended."""
    if not ticket.outcome.done():
        ticket.outcome.set_exception(error)
        ticket.outcome.exception()  # marks it as seen: the caller may be gone
