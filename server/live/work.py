"""The worker's half of a live stream: decode, upscale and encode frame after frame, in order.

Three threads overlap: one receives and decodes, the task's own drives the engine, one encodes and
sends. HTTP bounds how many frames are here at once, so no queue can grow.
"""

from __future__ import annotations

import io
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from engine.backends.base import BackendInfo, LaneSpec
from engine.frames import Frame, Nv12
from engine.gate_frames import to_nv12, to_rgb24
from server.live.jpeg_decoder import JpegDecoder
from server.live.link import HttpLink
from server.live.options import LiveOptions
from server.media.errors import Cancelled, MediaError
from server.workers.channel import Message
from server.workers.child import TaskContext


class FrameUpscaler(Protocol):
    """What a live stream needs of ``engine.upscaler.Upscaler``."""

    @property
    def info(self) -> BackendInfo:
        """Who really runs the frames."""

    def stream(
        self, frames: Iterator[Frame | None], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        """Frames x4, in order; None says that no frame is there yet."""


def run_live(
    upscaler: FrameUpscaler, socket_path: Path, options: LiveOptions, context: TaskContext
) -> Message:
    """Works on the frames that come over the socket until HTTP ends or hangs up.

    Returns:
        ``frames``: how many results were handed over.

    Raises:
        MediaError: a frame cannot be decoded; every earlier result was handed over.
        EngineError: the engine failed, likewise.
        Cancelled: HTTP hung up.
    """
    context.report({"engine": asdict(upscaler.info)})
    with ExitStack() as stack:
        try:
            link = stack.enter_context(HttpLink(socket_path))
        except OSError:  # the client left before the stream began
            raise Cancelled from None
        decoder = None
        if options.format == "jpeg":
            decoder = stack.enter_context(JpegDecoder(options.width, options.height))
        incoming = _Incoming(link, options, decoder)
        outgoing = _Outgoing(link, options)
        reader = threading.Thread(target=incoming.read, name="live-reader", daemon=True)
        reader.start()
        try:
            with closing(upscaler.stream(incoming.frames(), options.lane)) as results:
                for result in results:
                    outgoing.put(*incoming.oldest(), result)
        finally:
            try:
                outgoing.finish()
            finally:
                link.hang_up()
                reader.join()
    context.raise_if_cancelled()
    return {"frames": outgoing.sent}


class _Incoming:
    """Frames of the client as the engine wants them."""

    def __init__(self, link: HttpLink, options: LiveOptions, decoder: JpegDecoder | None) -> None:
        self._link = link
        self._options = options
        self._decoder = decoder
        self._ready: queue.SimpleQueue[tuple[int, float, Frame] | MediaError | None] = (
            queue.SimpleQueue()
        )
        self._working: deque[tuple[int, float]] = deque()

    def read(self) -> None:
        """Receives and decodes until the end; runs on a thread of its own."""
        try:
            while (arrived := self._link.receive()) is not None:
                number, payload = arrived
                began = time.perf_counter()
                self._ready.put((number, began, self._decoded(payload)))
        except MediaError as error:
            self._ready.put(error)
        finally:
            self._ready.put(None)

    def frames(self) -> Iterator[Frame | None]:
        """For ``Upscaler.stream``: waits only while nothing is in flight."""
        while True:
            try:
                item = self._ready.get(block=not self._working)
            except queue.Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, MediaError):
                raise item
            number, began, frame = item
            self._working.append((number, began))
            yield frame

    def oldest(self) -> tuple[int, float]:
        """(number, begin) of the frame whose result just came out."""
        return self._working.popleft()

    def _decoded(self, payload: bytes) -> Frame:
        options = self._options
        frame: Frame
        if self._decoder is not None:
            frame = self._decoder.decode(payload)
        else:
            frame = view_frame(payload, options)
        nv12 = options.lane.format == "nv12"
        if isinstance(frame, Nv12):
            return frame if nv12 else to_rgb24(frame, options.matrix, options.full_range)
        return to_nv12(frame, options.matrix, options.full_range) if nv12 else frame


class _Outgoing:
    """Results on their way back, encoded on a thread while the engine goes on."""

    def __init__(self, link: HttpLink, options: LiveOptions) -> None:
        self._link = link
        self._options = options
        self._thread = ThreadPoolExecutor(1, "live-sender")
        self._last: Future[None] | None = None
        self.sent = 0

    def put(self, number: int, began: float, result: Frame) -> None:
        """Sends ``result``; waits for the one before. Raises Cancelled when nobody reads."""
        self._wait()
        self._last = self._thread.submit(self._send, number, began, result)

    def finish(self) -> None:
        """Waits until the last result is sent. Raises Cancelled."""
        try:
            self._wait()
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is None:
            return
        try:
            last.result()
        except OSError:
            raise Cancelled from None
        self.sent += 1

    def _send(self, number: int, began: float, result: Frame) -> None:
        if self._options.answer == "jpeg":
            pieces = [memoryview(encode_jpeg(result, self._options.quality))]
        else:
            planes = (result.y, result.uv) if isinstance(result, Nv12) else (result,)
            pieces = [plane.data.cast("B") for plane in planes]
        self._link.send(number, pieces, (time.perf_counter() - began) * 1e3)


def view_frame(payload: bytes, options: LiveOptions) -> Frame:
    """A raw frame of exactly the announced size, without a copy."""
    height, width = options.height, options.width
    samples = np.frombuffer(payload, np.uint8)
    if options.format == "rgb24":
        return samples.reshape(height, width, 3)
    chroma = ((height + 1) // 2, (width + 1) // 2, 2)
    luma = height * width
    return Nv12(samples[:luma].reshape(height, width), samples[luma:].reshape(chroma))


def encode_jpeg(frame: Frame, quality: int) -> bytes:
    """An rgb24 frame as JPEG."""
    assert not isinstance(frame, Nv12)  # JPEG answers are made by an rgb24 engine
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
