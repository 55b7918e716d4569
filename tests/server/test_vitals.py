"""How a worker is reaches HTTP with what it says anyway."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import pytest

from engine.backends.nearest import NearestBackend
from engine.device import MemoryUse
from engine.errors import EngineFault
from engine.upscaler import Upscaler
from server.workers.channel import Channel
from server.workers.child import Speaker
from server.workers.vitals import vitals_of


@dataclass
class GpuLikeBackend(NearestBackend):
    """Repetition on a device with memory of its own."""

    is_lost: bool = False

    def memory_use(self) -> MemoryUse:
        if self.is_lost:
            raise EngineFault("the GPU failed earlier")
        return MemoryUse(3, 16)


def test_a_worker_tells_of_its_gpu_until_that_is_lost_and_of_nothing_on_a_cpu() -> None:
    with Upscaler(GpuLikeBackend()) as well, Upscaler(GpuLikeBackend(is_lost=True)) as lost:
        assert vitals_of(well) == {"gpu_memory": {"used": 3, "total": 16}}
        assert vitals_of(lost) == {}
    with Upscaler(NearestBackend()) as on_a_cpu:
        assert vitals_of(on_a_cpu) == {}


@pytest.mark.parametrize(("seconds", "told"), [(1e9, [True, False]), (0.0, [True, True])])
def test_not_every_message_tells_how_the_worker_is(
    monkeypatch: pytest.MonkeyPatch, seconds: float, told: list[bool]
) -> None:
    monkeypatch.setattr("server.workers.child.VITALS_SECONDS", seconds)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        speaker = Speaker(Channel(theirs), lambda: {"well": True})
        for number in range(2):
            speaker.send({"number": number})
        heard = Channel(ours).messages()
        found = [next(heard), next(heard)]
    assert [message["number"] for message in found] == [0, 1]
    assert ["vitals" in message for message in found] == told
