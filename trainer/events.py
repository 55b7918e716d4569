"""TensorBoard events of a run, written by the thread that makes them.

The writer that comes with PyTorch writes in a thread of its own, which on a full disk ends with a
traceback; here the caller gets an error that says what to do.
"""

from __future__ import annotations

import io
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch import Tensor

from trainer.files import unwritable


class EventFile:
    """A new file of events in ``folder``, which is made; a context manager.

    Raises:
        TrainerError: at once or at any event, when the disk is full or the folder cannot be
            written. The file then ends with its last whole event.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now = time.time_ns()
        name = f"{now // 10**9:010d}.{platform.node()}.{os.getpid()}.{now % 10**9:09d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"events.out.tfevents.{name}"
            self._file = path.open("xb", buffering=0)  # nothing is left to write when it is closed
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        except BaseException:
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def __enter__(self) -> EventFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One point of a curve."""
        self._add(Summary.Value(tag=tag, simple_value=value), step)

    def add_image(self, tag: str, pixels: Tensor, step: int) -> None:
        """A picture, (3, H, W) uint8."""
        memory = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy()).save(memory, "PNG")
        shown = Summary.Image(
            height=pixels.shape[1],
            width=pixels.shape[2],
            colorspace=3,
            encoded_image_string=memory.getvalue(),
        )
        self._add(Summary.Value(tag=tag, image=shown), step)

    def _add(self, value: Summary.Value, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        before = self._file.tell()
        rest = record.getbuffer()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(before)
                self._file.seek(before)
            raise unwritable(self.folder, error) from error
