"""The inside of a worker process: one task after the other, cancelled or ended from outside.

It ends when HTTP hangs up, so that nothing outlives the server, even a killed one. Knows nothing
of engines: what it can do is given to ``serve``.
"""

from __future__ import annotations

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
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    cancelled = threading.Event()
    reader = threading.Thread(target=_read, args=(channel, inbox, cancelled), daemon=True)
    send({"event": "ready", **hello})
    reader.start()
    while (task := inbox.get()) is not None:
        send({"event": "begun"})  # until here a death would cost the task nothing
        outcome = _outcome(task, tasks, TaskContext(_reporter(send), cancelled))
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


def _read(
    channel: Channel, inbox: queue.SimpleQueue[Message | None], cancelled: threading.Event
) -> None:
    for message in channel.messages():
        if message["event"] == "task":
            cancelled.clear()  # here: a late cancel of the task before must not end this one
            inbox.put(message["task"])
        elif message["event"] == "cancel":
            cancelled.set()
        else:  # "stop"
            inbox.put(None)
    # HTTP is gone. A task may be deep in a decoder; segments on disk are complete or absent.
    os.killpg(0, signal.SIGKILL)
