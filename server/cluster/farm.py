"""As many segment makers as the cluster has room for, and the segments spread over them.

The driver keeps the truth: which segments are wanted, at work, finished. A maker that is lost with
its node costs the segment it was at, which goes back to the front of the queue. Whoever is free
takes the next one, so that fast nodes make more of them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.backends.base import BackendInfo
from server.cluster.connection import ClusterError
from server.cluster.maker import EngineChoice, Failed, Made, SegmentMaker
from server.media.child import error_from_message
from server.media.ledger import Header
from server.segment_plan import Work, source_mark

ATTEMPTS = 3
"""A segment whose maker is lost or fails this often has failed."""
CHUNK_BYTES = 16 * 1024 * 1024
MOST_STILLBORN = 10
"""So many makers in a row that are lost before they are ready mean that none ever will be."""
_WAIT_SECONDS, _HIRE_SECONDS, _READY_SECONDS = 0.2, 1.0, 900.0


@dataclass(eq=False)
class _Maker:
    """A hired actor. It does one thing at a time: ``open``, ``has``, ``fetch``, then ``make``."""

    handle: Any
    does: str = "open"
    number: int | None = None
    """The segment it is at."""


@dataclass
class Farm:
    """Makes segments on a connected cluster.

    Args:
        ray: the connected module.
        choice: the engine of every maker.
        source: the video, on the driver's disk.
        check: called all the time; raises to give up.
    """

    ray: Any
    choice: EngineChoice
    source: Path
    check: Callable[[], None]
    backend: BackendInfo | None = None
    """Who runs the frames: the same on every node."""
    lost: int = 0
    """Makers that vanished."""
    _busy: dict[Any, _Maker] = field(default_factory=dict)
    _idle: list[_Maker] = field(default_factory=list)
    _queue: deque[int] = field(default_factory=deque)
    _tries: Counter[int] = field(default_factory=Counter)
    _chunks: list[Any] = field(default_factory=list)
    _stillborn: int = 0
    _hired_at: float = 0.0
    _ready_at: float = field(default_factory=time.monotonic)

    def wait_backend(self) -> BackendInfo:
        """Hires a first maker, and returns who runs its frames.

        Raises:
            ClusterError: no node can open the engine, or none has room.
        """
        while self.backend is None:
            self._hire(1)
            self._turn(_ignore)
        return self.backend

    def make(
        self, work: Work, header: Header, numbers: Sequence[int], on_made: Callable[[Made], None]
    ) -> None:
        """Makes ``numbers``; ``on_made`` hears of each once, in no order.

        Raises:
            MediaError, EncodeError: a segment cannot be made.
            ClusterError: no node is left and none comes.
        """
        self._queue.extend(numbers)
        while self._queue or any(maker.does == "make" for maker in self._busy.values()):
            self._hire(len(self._queue))
            while self._queue and self._idle:
                maker, maker.number = self._idle.pop(), self._queue.popleft()
                self._ask(maker, "make", work, header, maker.number)
            self._turn(on_made)

    def close(self) -> None:
        """Ends every maker; their copies of the source go with them."""
        makers = [*self._idle, *self._busy.values()]
        idle = [maker.handle.close.remote() for maker in self._idle]
        if idle:
            self.ray.wait(idle, num_returns=len(idle), timeout=5.0)
        for maker in makers:
            self.ray.kill(maker.handle)
        self._idle, self._busy = [], {}

    def _needs(self) -> dict[str, float]:
        """What a maker occupies: a GPU where there are any and they may be used."""
        on_gpu = self.choice.backend not in ("onnxruntime", "nearest")
        if on_gpu and self.ray.cluster_resources().get("GPU", 0) >= 1:
            return {"num_cpus": 1, "num_gpus": 1}
        return {"num_cpus": self.choice.threads or 1, "num_gpus": 0}

    def _hire(self, wanted: int) -> None:
        """Up to ``wanted`` makers in all, as far as there is room; one even if there is none yet,
        so that a cluster that can grow does."""
        now = time.monotonic()
        if now - self._hired_at < _HIRE_SECONDS:
            return
        self._hired_at = now
        needs = self._needs()
        kind = "GPU" if needs["num_gpus"] else "CPU"
        each = needs["num_gpus"] or needs["num_cpus"]
        room = int(self.ray.cluster_resources().get(kind, 0) // each)
        busy = sum(maker.does == "make" for maker in self._busy.values())
        have = len(self._idle) + len(self._busy)
        actor = self.ray.remote(SegmentMaker)
        for _ in range(max(1, min(wanted + busy, room)) - have):
            # SPREAD: nodes first, then devices of a node. Retrying is the queue's business.
            handle = actor.options(
                **needs, scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0
            ).remote(self._own_choice(needs))
            self._ask(_Maker(handle), "open")

    def _own_choice(self, needs: dict[str, float]) -> EngineChoice:
        """A CPU engine uses as many threads as its maker occupies."""
        if needs["num_gpus"]:
            return self.choice
        return replace(self.choice, threads=int(needs["num_cpus"]))

    def _ask(self, maker: _Maker, what: str, *arguments: Any) -> None:
        maker.does = what
        self._busy[getattr(maker.handle, what).remote(*arguments)] = maker

    def _turn(self, on_made: Callable[[Made], None]) -> None:
        """Waits a moment and takes what is finished."""
        self.check()
        refs = list(self._busy)
        ready, _ = self.ray.wait(refs, num_returns=1, timeout=_WAIT_SECONDS) if refs else ([], [])
        for ref in ready:
            maker = self._busy.pop(ref)
            try:
                result = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                raise ClusterError(
                    f"A node failed at the work ({type(error.cause).__name__}: {error.cause}); "
                    "is the same version of sr-server installed on all of them?"
                ) from error
            except self.ray.exceptions.RayError as error:
                self._lose(maker, f"its worker was lost ({_last_line(error)})")
            else:
                self._take(maker, result, on_made)
        if self._idle or any(maker.does == "make" for maker in self._busy.values()):
            self._ready_at = time.monotonic()
        elif time.monotonic() - self._ready_at > _READY_SECONDS:
            raise ClusterError(
                f"No worker of the cluster was ready within {_READY_SECONDS:.0f} s; "
                "look at `ray status`."
            )

    def _take(self, maker: _Maker, result: Any, on_made: Callable[[Made], None]) -> None:
        match maker.does:
            case "open":
                self._welcome(result)
                self._ask(maker, "has", self.source.absolute(), source_mark(self.source))
            case "has" if not result:
                self._ask(maker, "fetch", self._in_store())
            case "make":
                self._finish(maker, result, on_made)
            case _:
                self._stillborn = 0
                self._idle.append(maker)

    def _welcome(self, info: BackendInfo | str) -> None:
        if isinstance(info, str):
            raise ClusterError(f"A node of the cluster cannot work: {info}")
        mine = self.backend or info
        if _identity(info) != _identity(mine):
            raise ClusterError(
                f"One node runs {_identity(mine)}, another {_identity(info)}; name one backend and "
                "one model that all have."
            )
        self.backend = mine

    def _finish(
        self, maker: _Maker, result: Made | Failed, on_made: Callable[[Made], None]
    ) -> None:
        if isinstance(result, Made):
            maker.number = None
            self._idle.append(maker)
            on_made(result)
            return
        error = error_from_message(result.message)
        if result.final:
            raise error
        self.ray.kill(maker.handle)  # a device that failed once may go on to fail
        self._lose(maker, str(error))

    def _lose(self, maker: _Maker, why: str) -> None:
        """Gives the segment of a maker that is gone back."""
        self.lost += 1
        number, maker.number = maker.number, None
        if number is None:
            self._stillborn += 1
            if self._stillborn >= MOST_STILLBORN:
                raise ClusterError(
                    f"Workers of the cluster are lost before they are ready; the last time {why}. "
                    "Is sr-server installed on every node?"
                )
            return
        self._hired_at = 0.0
        self._tries[number] += 1
        if self._tries[number] >= ATTEMPTS:
            raise ClusterError(f"Segment {number} failed {ATTEMPTS} times; the last time {why}.")
        self._queue.appendleft(number)

    def _in_store(self) -> list[Any]:
        """References to the source in the object store, put there when first asked for."""
        if not self._chunks:
            with self.source.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    self._chunks.append(self.ray.put(chunk))
        return self._chunks


def _identity(info: BackendInfo) -> tuple[str, str | None, str | None]:
    return info.name, info.model, info.onnx_sha256


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _ignore(_: Made) -> None:
    """Nothing is made yet."""
