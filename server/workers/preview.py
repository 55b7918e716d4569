"""The newest frame of a running video as a small JPEG, for people who watch it being made."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from engine.backends.base import BackendInfo, LaneSpec
from engine.frames import Bytes, Frame, Nv12
from engine.upscaler import Upscaler
from server.workers.child import TaskContext

EVERY_SECONDS = 1.0
LONGEST_SIDE = 1280


class PreviewingUpscaler:
    """An upscaler whose stream leaves a picture at ``path`` now and then.

    Args:
        upscaler: does the work; stays open.
        path: replaced as a whole each time; None makes no pictures.
        context: is told of the first one.
    """

    def __init__(self, upscaler: Upscaler, path: Path | None, context: TaskContext) -> None:
        self._upscaler = upscaler
        self._path = path
        self._context = context

    @property
    def info(self) -> BackendInfo:
        """Who really runs the frames."""
        return self._upscaler.info

    def stream(
        self, frames: Iterator[Frame], spec: LaneSpec, *, copy: bool = True
    ) -> Generator[Frame]:
        """As ``Upscaler.stream``."""
        shown_at = -EVERY_SECONDS
        with closing(self._upscaler.stream(frames, spec, copy=copy)) as results:
            for result in results:
                if self._path is not None and time.monotonic() - shown_at >= EVERY_SECONDS:
                    replace_file(self._path, preview_jpeg(result, spec))
                    self._context.report({"has_preview": True})
                    shown_at = time.monotonic()
                yield result


def preview_jpeg(frame: Frame, spec: LaneSpec) -> bytes:
    """``frame``, thinned to at most 1280 pixels a side, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(_small_rgb(frame, spec)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def replace_file(path: Path, data: bytes) -> None:
    """Writes ``data`` beside ``path`` and renames it: readers see the old or the new file.

    Several workers may do so at once, as those that make segments of the same job do.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _small_rgb(frame: Frame, spec: LaneSpec) -> Bytes:
    if not isinstance(frame, Nv12):
        step = _step(frame)
        return np.ascontiguousarray(frame[::step, ::step])
    step = _step(frame.y)
    step += step % 2 if step > 1 else 0  # whole chroma samples
    y = frame.y[::step, ::step].astype(np.float32)
    chroma = frame.uv[:: max(1, step // 2), :: max(1, step // 2)].astype(np.float32) - 128
    if step == 1:
        chroma = chroma.repeat(2, axis=0).repeat(2, axis=1)
    chroma = chroma[: y.shape[0], : y.shape[1]]
    return _to_rgb(y, chroma[..., 0], chroma[..., 1], spec)


def _to_rgb(
    y: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    cb: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    cr: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    spec: LaneSpec,
) -> Bytes:
    kr, kb = {"bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}.get(
        spec.matrix, (0.2126, 0.0722)
    )
    if not spec.full_range:
        y, cb, cr = (y - 16) * (255 / 219), cb * (255 / 224), cr * (255 / 224)
    red = y + 2 * (1 - kr) * cr
    blue = y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], axis=-1) + 0.5, 0, 255).astype(np.uint8)


def _step(plane: Bytes) -> int:
    longest: int = max(plane.shape[:2])
    return max(1, -(-longest // LONGEST_SIDE))
