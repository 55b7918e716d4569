"""Crops of the same place side by side, and the figure that goes with them (PSNR-Y).

Places are chosen where the ground truth has most detail, so nobody's result has a say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.contract import SCALE
from engine.frames import Bytes

_BACKGROUND, _INK, _SOFT_INK = (24, 26, 30), (240, 240, 240), (160, 165, 175)
_GAP, _LABEL_HEIGHT = 12, 58


@dataclass(frozen=True, slots=True)
class Column:
    """One way to see the frame."""

    title: str
    caption: str
    """A second line, e.g. a figure."""
    frame: Bytes
    """(H, W, 3) uint8; a frame of a smaller size is shown with its pixels repeated."""


def psnr_y_db(result: Bytes, truth: Bytes, border: int = SCALE) -> float:
    """PSNR of BT.601 luma in dB, ``border`` pixels shaved off every side.

    Args:
        result: (H, W, 3) uint8 RGB.
        truth: of the same shape.
        border: 4 is the convention for x4.

    Returns:
        dB; infinity when both are equal.
    """
    inside = np.s_[border:-border, border:-border] if border else np.s_[:, :]
    error = _luma(result)[inside] - _luma(truth)[inside]
    mean_square = float(np.mean(error * error))
    return float("inf") if mean_square == 0 else 10 * float(np.log10(255**2 / mean_square))


def _luma(frame: Bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """16 + (65.481 R + 128.553 G + 24.966 B) / 255, not rounded."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return 16 + frame.astype(np.float64) @ weights


def busiest_places(truth: Bytes, side: int, count: int) -> list[tuple[int, int]]:
    """(top, left) of ``count`` squares of ``side`` pixels with most fine detail, apart.

    Positions are multiples of half a square, hence of x4 when ``side`` is one of 8. The frame
    must have room for ``count`` squares that do not touch.
    """
    luma = _luma(truth)
    detail = np.abs(np.diff(luma, axis=0)[:, :-1]) + np.abs(np.diff(luma, axis=1)[:-1])
    step = side // 2
    scores = {
        (top, left): float(detail[top : top + side, left : left + side].mean())
        for top in range(0, truth.shape[0] - side + 1, step)
        for left in range(0, truth.shape[1] - side + 1, step)
    }
    chosen: list[tuple[int, int]] = []
    for place in sorted(scores, key=lambda at: -scores[at]):
        if all(max(abs(place[0] - top), abs(place[1] - left)) >= 2 * side for top, left in chosen):
            chosen.append(place)
        if len(chosen) == count:
            break
    return sorted(chosen)


def side_by_side(
    columns: Sequence[Column], places: Sequence[tuple[int, int]], side: int, zoom: int = 2
) -> Image.Image:
    """A picture with one row per place and one labelled column per way to see it.

    Args:
        columns: the last one sets the scale; smaller frames are cut at the same place.
        places: (top, left) in pixels of the last column's frame.
        side: of the squares, in the same pixels.
        zoom: how often each of these pixels is repeated.
    """
    tile = side * zoom
    width = len(columns) * (tile + _GAP) + _GAP
    height = _LABEL_HEIGHT + len(places) * (tile + _GAP)
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    title_font, caption_font = ImageFont.load_default(20), ImageFont.load_default(15)
    reference = columns[-1].frame
    for index, column in enumerate(columns):
        x = _GAP + index * (tile + _GAP)
        draw.text((x, 8), column.title, _INK, font=title_font)
        draw.text((x, 33), column.caption, _SOFT_INK, font=caption_font)
        for row, place in enumerate(places):
            crop = _crop(column.frame, reference, place, side)
            shown = Image.fromarray(crop).resize((tile, tile), Image.Resampling.NEAREST)
            canvas.paste(shown, (x, _LABEL_HEIGHT + row * (tile + _GAP)))
    return canvas


def _crop(frame: Bytes, reference: Bytes, place: tuple[int, int], side: int) -> Bytes:
    ratio = reference.shape[0] // frame.shape[0]
    top, left, length = place[0] // ratio, place[1] // ratio, side // ratio
    return np.ascontiguousarray(frame[top : top + length, left : left + length])
