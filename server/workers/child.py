"""The inside of a worker process: one task after the other, cancelled or ended from outside.

HTTP may send more while a task runs, so that no time passes between two, and may take back those
that have not begun. The process ends when HTTP hangs up, so that nothing outlives the server, even
a killed one. Knows nothing of engines: what it can do is given to ``serve``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.workers.channel import Channel, Message

VITALS_SECONDS = 5.0
"""Between two looks at how the worker is: asking a GPU waits for the frame that it is at."""


class TaskFailed(Exception):
    """A task ended in a way that its caller must hear: the fields of an ``ApiError``."""

    def __init__(self, detail: Message) -> None:
        super().__init__(str(detail.get("message")))
        self.detail = detail


class WorkerUnfit(TaskFailed):
    """The engine of this worker gave a wrong result or none: another worker must go on."""


class TaskCancelled(Exception):
    """The caller wants no more of this task."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a running task can say and hear."""

    report: Callable[[Message], None]
    """Sends fields of progress to HTTP; also tells the watchdog that the task lives."""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def raise_if_cancelled(self) -> None:
        """Raises TaskCancelled once the caller has cancelled."""
        if self.cancelled.is_set():
            raise TaskCancelled


TaskFunction = Callable[[Message, TaskContext], Message]
"""Runs one task and returns its result. Raises TaskFailed, WorkerUnfit or TaskCancelled."""


@dataclass(eq=False, frozen=True, slots=True)
class _Given:
    """A task that HTTP has sent."""

    number: int
    task: Message
    cancelled: threading.Event = field(default_factory=threading.Event)


class _Inbox:
    """Tasks that have not ended: filled by one thread, worked off by another."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Given | None] = queue.SimpleQueue()
        self._known: dict[int, _Given] = {}

    def put(self, given: _Given | None) -> None:
        """Adds one; None is the end."""
        if given is not None:
            self._known[given.number] = given
        self._waiting.put(given)

    def get(self) -> _Given | None:
        """The next one, when it is there."""
        return self._waiting.get()

    def forget(self, given: _Given) -> None:
        """It has ended."""
        del self._known[given.number]

    def cancel(self, number: int) -> None:
        """Cancels the one with this number, and no other: it may have ended."""
        if given := self._known.get(number):
            given.cancelled.set()

    def take_back(self) -> list[int]:
        """Removes all that have not begun."""
        taken: list[int] = []
        with contextlib.suppress(queue.Empty):
            while given := self._waiting.get_nowait():
                taken.append(given.number)
                self.forget(given)
            self._waiting.put(None)  # the end stays
        return taken


def serve(
    channel: Channel,
    tasks: Mapping[str, TaskFunction],
    hello: Message,
    vitals: Callable[[], Message] = dict,
) -> None:
    """Announces ``hello``, then works until the other side hangs up or a task proves it unfit.

    Args:
        channel: to HTTP.
        tasks: what can be asked for.
        hello: goes with the message that says that all is ready.
        vitals: how the worker is; goes with a message now and then.
    """
    send = Speaker(channel, vitals).send
    inbox = _Inbox()
    reader = threading.Thread(target=_read, args=(channel, inbox), daemon=True)
    send({"event": "ready", **hello})
    reader.start()
    while (given := inbox.get()) is not None:
        if given.cancelled.is_set():
            outcome: Message = {"event": "cancelled"}
        else:
            send({"event": "begun"})  # until here a death would cost the task nothing
            outcome = _outcome(given.task, tasks, TaskContext(_reporter(send), given.cancelled))
        inbox.forget(given)
        send(outcome)
        if outcome["event"] == "unfit":
            return


class Speaker:
    """Sends messages, now and then one with ``vitals``; from any thread."""

    def __init__(self, channel: Channel, vitals: Callable[[], Message]) -> None:
        self._channel = channel
        self._vitals = vitals
        self._due_at = 0.0

    def send(self, message: Message) -> None:
        """Sends ``message``. Raises OSError when the other side is gone."""
        if (now := time.monotonic()) >= self._due_at:
            self._due_at = now + VITALS_SECONDS
            message = {**message, "vitals": self._vitals()}
        self._channel.send(message)


def _reporter(send: Callable[[Message], None]) -> Callable[[Message], None]:
    return lambda fields: send({**fields, "event": "progress"})


def _outcome(
    task: Message, tasks: Mapping[str, TaskFunction], context: TaskContext
) -> dict[str, Any]:
    try:
        return {"event": "done", "result": tasks[task["kind"]](task, context)}
    except TaskCancelled:
        return {"event": "cancelled"}
    except WorkerUnfit as failure:
        return {"event": "unfit", "error": failure.detail}
    except TaskFailed as failure:
        return {"event": "failed", "error": failure.detail}
    except Exception as error:  # the outermost edge of a task: a bug must not end the worker
        message = f"the server failed at this ({type(error).__name__})"
        return {
            "event": "failed",
            "error": {"code": "internal", "message": message},
            "bug": _traceback_of(error),
        }


def _traceback_of(error: Exception) -> str:
    import traceback  # only when something is wrong

    return "".join(traceback.format_exception(error))


def _read(channel: Channel, inbox: _Inbox) -> None:
    with contextlib.suppress(OSError):  # HTTP is gone, and hears no answer
        for message in channel.messages():
            match message["event"]:
                case "task":
                    inbox.put(_Given(message["number"], message["task"]))
                case "cancel":
                    inbox.cancel(message["number"])
                case "take_back":
                    channel.send({"event": "returned", "numbers": inbox.take_back()})
                case _:  # "stop"
                    inbox.put(None)
    # HTTP is gone. A task may be deep in a decoder; segments on disk are complete or absent.
    os.killpg(0, signal.SIGKILL)
