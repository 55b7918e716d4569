"""Row strips: a frame too large for memory, cut so that the result equals the whole frame's.

Every window but those at the picture's true border carries a halo of rows that are computed and
thrown away. All windows have one height, so one set of lanes (one plan) does them all, and they
start on every fourth row: nv12 chroma is never split, and a backend that works in tiles of 4x4
cuts a window into the same tiles as the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.contract import SCALE
from engine.frames import Bytes, Frame, Nv12

ALIGNMENT = 4
"""Rows at which a strip may start."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Input rows ``start .. start+rows`` of a picture, of which ``keep_from .. keep_to`` count."""

    start: int
    rows: int
    keep_from: int
    keep_to: int


def plan_strips(height: int, width: int, halo: int, max_pixels: int) -> list[Strip]:
    """Strips that together keep every row once, in order.

    Args:
        height: rows of the picture.
        width: columns of the picture.
        halo: rows around a pixel that can change its result.
        max_pixels: of one window; exceeded when not even four rows and their halo fit, or by
            up to three rows for the alignment.
    """
    rows = min(height, max(max_pixels // width, 2 * halo + ALIGNMENT))
    rows += (height - rows) % ALIGNMENT
    strips: list[Strip] = []
    start = kept = 0
    while kept < height:
        start = min(start, height - rows)
        keep_to = height if start + rows == height else start + rows - halo
        strips.append(Strip(start, rows, kept, keep_to))
        kept = keep_to
        start = (kept - halo) // ALIGNMENT * ALIGNMENT
    return strips


def cut(frame: Frame, strip: Strip) -> Frame:
    """The window of a strip, without copying."""
    end = strip.start + strip.rows
    if isinstance(frame, Nv12):
        return Nv12(frame.y[strip.start : end], frame.uv[strip.start // 2 : (end + 1) // 2])
    return frame[strip.start : end]


def paste(target: Frame, strip: Strip, result: Frame) -> None:
    """Copies the rows that count from the result of a window into the upscaled picture."""
    first, last = strip.keep_from, strip.keep_to
    skipped = first - strip.start
    if isinstance(target, Nv12) and isinstance(result, Nv12):
        _paste_rows(target.y, result.y, (first, last, skipped), SCALE)
        _paste_rows(target.uv, result.uv, (first, last, skipped), SCALE // 2)
    elif not isinstance(target, Nv12) and not isinstance(result, Nv12):
        _paste_rows(target, result, (first, last, skipped), SCALE)
    else:
        raise TypeError("the strip and the picture have different formats")


def _paste_rows(target: Bytes, result: Bytes, rows: tuple[int, int, int], scale: int) -> None:
    first, last, skipped = rows
    source = result[skipped * scale : (skipped + last - first) * scale]
    target[first * scale : last * scale] = source
