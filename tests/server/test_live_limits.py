"""The limits of a live stream that time decides, on a loop whose clock only jumps: nobody waits."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any, cast

import pytest

from server.errors import ApiError
from server.live.link import Result, WorkerLink
from server.live.options import LiveOptions
from server.live.session import LiveSession, Surroundings
from server.live.window import Arrived, LiveMode
from server.live.wire import HEADER_BYTES
from server.metrics import Metrics
from server.settings import Limits
from server.workers.ticket import Ticket

FRAME = bytes(4 * 4 * 3)
BURST = 4
"""Frames that may come at once."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """Goes on to the next timer at once where another loop would sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout != 0:
            assert timeout is not None, "nothing is going to happen any more"
            self._loop.now += timeout
        return ready


class SteadyClient:
    """Sends frames at an even pace, then the end; keeps what it is told."""

    def __init__(self, per_second: float, seconds: float) -> None:
        self._step, self._frames = 1 / per_second, round(per_second * seconds)
        self._end = seconds
        self._sent = 0
        self.answers = 0

    async def receive(self) -> str | bytes:
        if self._sent > self._frames:  # it has ended, and only listens
            await asyncio.Event().wait()
        loop = asyncio.get_running_loop()
        ended = self._sent == self._frames
        due = self._end if ended else self._sent * self._step
        await asyncio.sleep(max(0.0, due - loop.time()))
        self._sent += 1
        return '{"type":"end"}' if ended else FRAME

    async def send_message(self, message: dict[str, Any]) -> None:
        """Statistics are of no interest here."""

    async def send_frame(self, message: bytearray) -> None:
        self.answers += 1


class InstantLink:
    """A worker that answers at once."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()

    async def send(self, frame: Arrived) -> None:
        self._results.put_nowait(Result(frame.number, bytearray(HEADER_BYTES), 1.0))

    def send_end(self) -> None:
        self._results.put_nowait(None)
        self._ticket.outcome.set_result({})

    async def receive(self) -> Result | None:
        return await self._results.get()


def stream(client: SteadyClient, mode: LiveMode, **limits: float) -> tuple[dict[str, Any], float]:
    """(last statistics, seconds that it took) of a stream. Raises ApiError when it is ended."""

    async def run() -> dict[str, Any]:
        ticket = Ticket("live", {})
        options = LiveOptions(width=4, height=4, format="rgb24", answer="rgb24", mode=mode)
        around = Surroundings(Limits(**cast(Any, limits)), Metrics(), asyncio.Event())
        link = cast(WorkerLink, InstantLink(ticket))
        return await LiveSession(client, link, ticket, options, around).run()

    loop = JumpingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        end = runner.run(run())
        return end, loop.now


@pytest.mark.parametrize(("per_second", "over"), [(29, 0), (30, 0), (31, 1)])
def test_frames_over_the_limit_a_second_are_dropped_or_made_to_wait(
    per_second: int, over: int
) -> None:
    seconds, limit = 20, 30
    sent, passing = per_second * seconds, min(per_second, limit) * seconds
    client = SteadyClient(per_second, seconds)
    end, _ = stream(client, "latest", max_live_fps=limit)
    assert end["dropped"] == sent - client.answers
    assert passing <= client.answers <= passing + BURST * over
    client = SteadyClient(per_second, seconds)
    end, took = stream(client, "lossless", max_live_fps=limit)
    assert (end["dropped"], client.answers) == (0, sent)
    assert took == pytest.approx(max(seconds, (sent - BURST) / limit), abs=0.1)


@pytest.mark.parametrize("seconds", [59, 60])
def test_a_stream_may_last_its_time(seconds: int) -> None:
    client = SteadyClient(4, seconds)
    _, took = stream(client, "latest", live_seconds=60, live_idle_seconds=2)
    assert (client.answers, took) == (4 * seconds, seconds)


def test_a_stream_may_not_last_longer() -> None:
    client = SteadyClient(4, 61)
    with pytest.raises(ApiError) as ended:
        stream(client, "latest", live_seconds=60, live_idle_seconds=2)
    assert (ended.value.status, ended.value.code, ended.value.limit) == (504, "timed_out", 60)
    assert 4 * 60 <= client.answers < 4 * 61
