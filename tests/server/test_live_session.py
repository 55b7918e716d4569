"""A live stream between a client and a worker that are played by the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from server.live.link import Result, WorkerLink
from server.live.options import LiveOptions
from server.live.session import LiveSession, Surroundings
from server.live.window import Arrived
from server.live.wire import HEADER_BYTES
from server.metrics import Metrics
from server.settings import Limits
from server.workers.ticket import Ticket

Message = dict[str, Any]


class BusyWorker:
    """A link to a worker that is busy with the first frame until ``finish_first``."""

    def __init__(self, ticket: Ticket) -> None:
        self.sent: list[int] = []
        self._ticket = ticket
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()

    async def send(self, frame: Arrived) -> None:
        self.sent.append(frame.number)
        if frame.number > 0:
            self._answer(frame.number)

    def finish_first(self) -> None:
        self._answer(0)

    def _answer(self, number: int) -> None:
        self._results.put_nowait(Result(number, bytearray(HEADER_BYTES), 1.0))

    def send_end(self) -> None:
        self._results.put_nowait(None)
        self._ticket.outcome.set_result({})

    async def receive(self) -> Result | None:
        return await self._results.get()


class HastyClient:
    """Sends its frames and the end at once; the end has been taken when it is asked for more."""

    def __init__(self, frames: int, on_end_taken: Callable[[], None]) -> None:
        self._messages: list[str | bytes] = [bytes(3)] * frames + [json.dumps({"type": "end"})]
        self._on_end_taken = on_end_taken
        self.answers = 0

    async def receive(self) -> str | bytes:
        if not self._messages:
            self._on_end_taken()
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # the worker is given what may be given
        return self._messages.pop(0)

    async def send_message(self, message: Message) -> None:
        """Statistics are of no interest."""

    async def send_frame(self, message: bytearray) -> None:
        self.answers += 1


def test_the_newest_frame_is_answered_even_if_it_waits_while_the_client_ends() -> None:
    async def test() -> None:
        ticket = Ticket("live", {})
        worker = BusyWorker(ticket)
        client = HastyClient(2, worker.finish_first)
        options = LiveOptions(width=1, height=1, format="rgb24", mode="latest", in_work=1)
        around = Surroundings(Limits(), Metrics(), asyncio.Event())
        session = LiveSession(client, cast(WorkerLink, worker), ticket, options, around)
        last = await session.run()
        assert (last["received"], last["answered"], last["dropped"]) == (2, 2, 0)
        assert (client.answers, worker.sent) == (2, [0, 1])

    asyncio.run(asyncio.wait_for(test(), 30))
