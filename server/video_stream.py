"""A video that is read while it is made: ``upscale_video`` as an iterator of bytes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from engine.closing import Closing
from server.flow import FrameUpscaler
from server.manifest import Manifest
from server.media.errors import Cancelled
from server.session import upscale_video
from server.video_options import OnProgress, VideoOptions

_QUEUED_CHUNKS = 4
_POLL_SECONDS = 0.2


class VideoStream(Closing):
    """Iterate over the bytes; then ``manifest`` is set. ``close`` stops the work.

    The session runs on a thread of its own, at most a few chunks ahead of the reader. Its
    exceptions surface where the bytes that are missing would have been.
    """

    def __init__(
        self,
        source: Path,
        upscaler: FrameUpscaler,
        options: VideoOptions,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Starts at once.

        Args:
            source: a real file; must stay until the stream is closed.
            upscaler: used by the session's thread until the stream is closed.
            options: what the user chose.
            on_progress: called from the session's thread.
        """
        self.manifest: Manifest | None = None
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_QUEUED_CHUNKS)
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._work,
            args=(source, upscaler, options, on_progress),
            name="video",
            daemon=True,
        )
        self._thread.start()

    def write(self, data: bytes) -> None:
        """The session's sink: waits while the reader is behind."""
        self._put(data)
        if self._closed.is_set():
            raise Cancelled("Nobody reads this video any more.")

    def _put(self, data: bytes | None) -> None:
        while not self._closed.is_set():
            try:
                self._chunks.put(data, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def _work(
        self,
        source: Path,
        upscaler: FrameUpscaler,
        options: VideoOptions,
        on_progress: OnProgress | None,
    ) -> None:
        try:
            self.manifest = upscale_video(
                source, self, upscaler, options, on_progress, cancelled=self._closed.is_set
            )
        # The edge of a thread: everything goes to the reader.
        except BaseException as error:
            self._failure = error
        finally:
            self._put(None)

    def __iter__(self) -> Iterator[bytes]:
        """The bytes of the video. Raises what ``upscale_video`` raises."""
        while (data := self._chunks.get()) is not None:
            yield data
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stops the work and waits for its children to end; harmless when called twice."""
        self._closed.set()
        self._thread.join()
