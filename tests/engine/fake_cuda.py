"""A GPU made of arrays: queued work runs late, in any order that CUDA's rules allow.

Nothing runs when it is queued. ``synchronize`` runs work, each time from a stream that ``choose``
picks among those that may go on, until the event has happened. So code that forgets to chain two
streams, or touches memory too early, gives wrong pictures for some choice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine.backends.cuda_api import DeviceFacts
from engine.dlpack import Plane
from engine.errors import EngineFault, OutOfMemory
from engine.frames import Bytes

T4 = DeviceFacts("Tesla T4", "7.5", 40, 15_843_721_216, 3, "13.0")
POISON = 0xA5
"""What fresh memory holds."""


@dataclass(eq=False)
class FakeEvent:
    recorded: int = 0
    happened: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class Operation:
    kind: Literal["run", "record", "wait"]
    run: Callable[[], None] = lambda: None
    event: FakeEvent | None = None
    count: int = 0


@dataclass(eq=False)
class FakeStream:
    handle: int
    queue: deque[Operation] = field(default_factory=deque)


@dataclass(eq=False)
class FakeMemory:
    address: int
    data: Bytes
    freed: bool = False


class FakeCuda:
    """Implements CudaDevice. ``fail_at`` makes the n-th call raise; ``capacity`` limits memory."""

    def __init__(
        self,
        choose: Callable[[int], int] = lambda count: 0,
        capacity: int = 1 << 40,
        facts: DeviceFacts = T4,
    ) -> None:
        self.facts = facts
        self.choose, self.capacity = choose, capacity
        self.fail_at: int | None = None
        self.failure: type[EngineFault] = EngineFault
        self.calls = 0
        self.streams: dict[int, FakeStream] = {}
        self.memories: list[FakeMemory] = []
        self.thread = threading.get_ident()
        self.clock = 0.0
        self.closed = False
        self.log: list[str] = []

    def _enter(self, name: str) -> None:
        assert threading.get_ident() == self.thread, f"{name} was called on another thread"
        assert not self.closed, f"{name} was called after close"
        self.calls += 1
        self.log.append(name)
        if self.fail_at is not None and self.calls >= self.fail_at:
            if self.failure is OutOfMemory:  # memory may be there the next time
                self.fail_at = None
            raise self.failure(f"{name} failed")

    def stream(self) -> FakeStream:
        self._enter("stream")
        stream = FakeStream(handle=1 + len([handle for handle in self.streams if handle]))
        self.streams[stream.handle] = stream
        return stream

    def default_stream(self) -> FakeStream:
        return self.streams.setdefault(0, FakeStream(handle=0))

    def stream_handle(self, stream: FakeStream) -> int:
        return stream.handle

    def event(self) -> FakeEvent:
        self._enter("event")
        return FakeEvent()

    def pinned(self, size_bytes: int) -> Bytes:
        self._enter("pinned")
        return np.full(size_bytes, POISON, np.uint8)

    def memory(self, size_bytes: int) -> FakeMemory:
        self._enter("memory")
        if size_bytes > self.free_bytes():
            raise OutOfMemory(f"no memory for {size_bytes} bytes")
        memory = FakeMemory((len(self.memories) + 1) << 32, np.full(size_bytes, POISON, np.uint8))
        self.memories.append(memory)
        return memory

    def address(self, memory: FakeMemory) -> int:
        return memory.address

    def free(self, memory: FakeMemory) -> None:
        self._enter("free")
        assert not memory.freed, "memory was freed twice"
        assert not any(stream.queue for stream in self.streams.values()), "freed while in use"
        memory.freed = True

    def copy_in(self, target: FakeMemory, source: Bytes, stream: FakeStream) -> None:
        self._enter("copy_in")
        self.queue(stream, lambda: self._copy(target.data, source))

    def copy_out(self, target: Bytes, source: FakeMemory, stream: FakeStream) -> None:
        self._enter("copy_out")
        self.queue(stream, lambda: self._copy(target, source.data))

    def read(self, target: Bytes, address: int, stream: FakeStream) -> None:
        self._enter("read")
        self.queue(stream, lambda: self._copy(target, self.at(address, target.size)))

    def copy_plane(self, target: int, source: Plane, stream: FakeStream) -> None:
        self._enter("copy_plane")
        size = (source.rows, source.row_bytes)

        def run() -> None:
            span = self.at(source.address, source.pitch * (source.rows - 1) + source.row_bytes)
            rows = np.lib.stride_tricks.as_strided(span, size, (source.pitch, 1))
            self.at(target, source.rows * source.row_bytes).reshape(size)[...] = rows

        self.queue(stream, run)

    @staticmethod
    def _copy(target: Bytes, source: Bytes) -> None:
        target[:] = source

    def queue(self, stream: FakeStream, run: Callable[[], None]) -> None:
        stream.queue.append(Operation("run", run))

    def record(self, event: FakeEvent, stream: FakeStream) -> None:
        self._enter("record")
        event.recorded += 1
        stream.queue.append(Operation("record", event=event, count=event.recorded))

    def wait(self, stream: FakeStream, event: FakeEvent) -> None:
        self._enter("wait")
        stream.queue.append(Operation("wait", event=event, count=event.recorded))

    def synchronize(self, event: FakeEvent) -> None:
        self._enter("synchronize")
        while event.happened < event.recorded:
            ready = [stream for stream in self.streams.values() if self._may_go_on(stream)]
            assert ready, "the streams wait for each other"
            self._step(ready[self.choose(len(ready))])

    @staticmethod
    def _may_go_on(stream: FakeStream) -> bool:
        if not stream.queue:
            return False
        first = stream.queue[0]
        return first.kind != "wait" or (
            first.event is not None and first.event.happened >= first.count
        )

    def _step(self, stream: FakeStream) -> None:
        operation = stream.queue.popleft()
        self.clock += 1.0
        operation.run()
        if operation.kind == "record" and operation.event is not None:
            operation.event.happened, operation.event.at = operation.count, self.clock

    def elapsed_ms(self, first: FakeEvent, second: FakeEvent) -> float:
        self._enter("elapsed_ms")
        assert first.happened == first.recorded
        assert second.happened == second.recorded
        return second.at - first.at

    def free_bytes(self) -> int:
        used = sum(memory.data.size for memory in self.memories if not memory.freed)
        return self.capacity - used

    def at(self, address: int, size_bytes: int) -> Bytes:
        """The bytes of device memory at an address, as a view."""
        memory = self.memories[(address >> 32) - 1]
        assert not memory.freed, "freed memory was used"
        start = address - memory.address
        return memory.data[start : start + size_bytes]

    def close(self) -> None:
        assert threading.get_ident() == self.thread
        self.closed = True
