"""Colour matrices: 8-bit RGB to and from Y'CbCr samples as linear maps plus an offset.

Luma coefficients are those of ITU-R BT.601-7, BT.709-6 and BT.2020-2 (non-constant luminance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ContractError

LUMA: dict[str, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Matrix name -> (Kr, Kb)."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColourMap:
    """``samples = from_rgb @ rgb + offset``, with rgb in [0, 1] and samples in grey levels."""

    from_rgb: Matrix
    """(3, 3): rows Y, Cb, Cr."""
    to_rgb: Matrix
    """(3, 3): the inverse."""
    offset: Matrix
    """(3,): the samples of black."""


def colour_map(matrix: str, full_range: bool) -> ColourMap:
    """The map of a matrix and a range. Raises ContractError for an unknown matrix."""
    if matrix not in LUMA:
        raise ContractError(f"unknown colour matrix {matrix!r}: use one of {', '.join(LUMA)}")
    kr, kb = LUMA[matrix]
    luma = np.array([kr, 1 - kr - kb, kb])
    blue = (np.array([0.0, 0, 1]) - luma) / (2 * (1 - kb))
    red = (np.array([1.0, 0, 0]) - luma) / (2 * (1 - kr))
    luma_span, chroma_span = (255, 255) if full_range else (219, 224)
    from_rgb = np.stack([luma * luma_span, blue * chroma_span, red * chroma_span])
    offset = np.array([0 if full_range else 16, 128, 128], np.float64)
    return ColourMap(from_rgb, np.linalg.inv(from_rgb), offset)
