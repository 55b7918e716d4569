"""The one thread that talks to a GPU.

CUDA contexts belong to threads: here the primary context is retained once, and everything is
made, used and freed. Others hand work over and wait. CUDA errors other than a lack of memory are
sticky, so after the first one every further call says so at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from engine.backends.cuda_api import CudaDevice, DeviceFacts
from engine.errors import EngineFault, OutOfMemory

Result = TypeVar("Result")
AnyDevice = CudaDevice[Any, Any, Any]


class GpuThread:
    """Runs callables on the GPU's own thread, in the order in which they come.

    Args:
        open_device: called on that thread; whatever it raises is raised here.
    """

    def __init__(self, open_device: Callable[[], AnyDevice]) -> None:
        self._work: SimpleQueue[tuple[Callable[[AnyDevice], Any], Future[Any]] | None]
        self._work = SimpleQueue()
        self._fault = ""
        self._closed = False
        self._door = threading.Lock()
        opened: Future[DeviceFacts] = Future()
        # Daemon: a forgotten backend must not keep the interpreter from ending.
        self._thread = threading.Thread(
            target=self._run, args=(open_device, opened), name="gpu", daemon=True
        )
        self._thread.start()
        self.facts = opened.result()

    @property
    def fault(self) -> str:
        """What made the GPU unusable; empty while it is usable."""
        return self._fault

    def call(self, work: Callable[[AnyDevice], Result]) -> Result:
        """``work(device)`` on the GPU thread.

        Raises:
            EngineFault: the GPU failed now or earlier, or the thread was closed.
        """
        done: Future[Result] = Future()
        with self._door:  # work handed over behind the closing would never be done
            if self._closed:
                raise EngineFault("the GPU backend is closed: open it again")
            self._work.put((work, done))
        return done.result()

    def close(self) -> None:
        """Ends the thread after the work already handed over; harmless when called twice."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._work.put(None)
        self._thread.join()

    def _run(self, open_device: Callable[[], AnyDevice], opened: Future[DeviceFacts]) -> None:
        try:
            device = open_device()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(device.facts)
        try:
            while (item := self._work.get()) is not None:
                self._serve(device, *item)
                del item  # a waiting thread must not keep the last frame's memory alive
        finally:
            device.close()

    def _serve(
        self, device: AnyDevice, work: Callable[[AnyDevice], Any], done: Future[Any]
    ) -> None:
        if self._fault:
            done.set_exception(EngineFault(f"the GPU failed earlier: {self._fault}"))
            return
        try:
            done.set_result(work(device))
        except BaseException as error:
            if isinstance(error, EngineFault) and not isinstance(error, OutOfMemory):
                self._fault = str(error)
            done.set_exception(error)
