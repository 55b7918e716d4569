"""One worker process as HTTP sees it: started, told its tasks, heard, killed as a group."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from server.workers.channel import MAX_LINE_BYTES, Message, encode_message

CANCEL_SECONDS = 10.0
"""A task that does not stop this long after it was cancelled is killed with its worker."""


class WorkerDied(Exception):
    """The process ended in the middle of something."""


class WorkerUnusable(Exception):
    """The process says that its engine cannot run here; starting it again will not help."""


class WorkerProcess:
    """A running worker; at most one task at a time.

    Use ``start``, then ``wait_ready``, then ``run`` as often as wanted, then ``close`` or ``kill``.
    ``run`` is ``give`` and ``follow``; tasks that are given while one is followed wait in the
    worker, and are followed in their turn unless ``take_back`` brings them back.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.engine: dict[str, Any] = {}
        """Backend, version, device, model, …; known after ``wait_ready``."""
        self.sandbox: dict[str, bool] = {}
        """What its media children really give up here; known after ``wait_ready``."""
        self.vitals: dict[str, Any] = {}
        """How it was when it last said so, at ``vitals_at`` on the monotonic clock."""
        self.vitals_at = 0.0
        self.has_begun = False
        """Whether it has begun with the task that is followed."""
        self._last = 0
        """Number of the task that was given last."""
        self._followed = 0

    @classmethod
    async def start(cls, command: Sequence[str], config: Message) -> WorkerProcess:
        """Starts ``command FD CONFIG`` in a process group of its own."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                json.dumps(config),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """Of the process, which leads its group."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Of the process; a negative one is the signal that ended it; None while it runs."""
        return self._process.returncode

    @property
    def next_number(self) -> int:
        """Of the task that is given next."""
        return self._last + 1

    async def wait_ready(self, on_event: Callable[[Message], None]) -> None:
        """Waits until the engine is open; ``on_event`` hears how far a plan is built.

        Raises:
            WorkerUnusable: no such engine here; the message is one sentence.
            WorkerDied: the process ended.
        """
        while True:
            message = await self._receive()
            if message["event"] == "ready":
                self.engine = message["engine"]
                self.sandbox = message.get("sandbox", {})
                return
            if message["event"] == "fatal":
                raise WorkerUnusable(message["message"])
            on_event(message)

    async def run(
        self,
        task: Message,
        on_event: Callable[[Message], None],
        on_begin: Callable[[], None] = lambda: None,
    ) -> Message:
        """``give`` and ``follow``."""
        return await self.follow(self.give(task), on_event, on_begin)

    def give(self, task: Message) -> int:
        """Sends ``task``, which the worker begins when it has ended those before; its number.

        Only small tasks may wait there: nobody waits until they have been read.

        Raises:
            WorkerDied: the process ended.
        """
        self._last += 1
        self._post({"event": "task", "number": self._last, "task": task})
        return self._last

    def take_back(self) -> None:
        """Asks for every task that has not begun; the answer comes through ``follow``."""
        with contextlib.suppress(WorkerDied):
            self._post({"event": "take_back"})

    async def follow(
        self,
        number: int,
        on_event: Callable[[Message], None],
        on_begin: Callable[[], None] = lambda: None,
        on_returned: Callable[[list[int]], None] = lambda _: None,
    ) -> Message:
        """Follows a task to the message that ends it, in the order in which they were given.

        That is done, failed, cancelled, unfit, or returned where it was taken back.

        Args:
            number: of the task.
            on_event: hears progress.
            on_begin: called when the worker says that it begins.
            on_returned: called with the numbers of what ``take_back`` has brought back, this task
                among them or not.

        Raises:
            WorkerDied: the process ended first.
        """
        self.has_begun, self._followed = False, number
        while True:
            message = await self._receive()
            match message["event"]:
                case "begun":
                    self.has_begun = True
                    on_begin()
                case "progress":
                    on_event(message)
                case "returned":
                    on_returned(message["numbers"])
                    if number in message["numbers"]:
                        return message
                case _:
                    return message

    def cancel(self, number: int | None = None) -> None:
        """Asks a task to stop, the one that is followed when no number is given."""
        with contextlib.suppress(WorkerDied):
            self._post({"event": "cancel", "number": number or self._followed})

    async def wait_dead(self) -> None:
        """Returns when the process has ended."""
        await self._process.wait()

    def kill(self) -> None:
        """Kills the process and its decode children now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self, seconds: float = 5.0) -> None:
        """Asks the idle process to end, kills it when it does not, frees the socket."""
        try:
            with contextlib.suppress(WorkerDied):
                self._post({"event": "stop"})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
        finally:
            self.kill()
            await self._process.wait()
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _post(self, message: Message) -> None:
        if self._writer.is_closing():  # uvloop would take a write for a bug
            raise WorkerDied
        try:
            self._writer.write(encode_message(message))
        except OSError:
            raise WorkerDied from None

    async def _receive(self) -> Message:
        try:
            line = await self._reader.readline()
            message: Message = json.loads(line)
        except (OSError, ValueError):  # gone, cut off in a line, or not a line of ours
            raise WorkerDied from None
        if "vitals" in message:
            self.vitals, self.vitals_at = message["vitals"], time.monotonic()
        return message
