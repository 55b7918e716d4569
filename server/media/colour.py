"""Colour tags of a video and what they mean for the conversion to RGB and back.

The numbers are those of ISO/IEC 23091-2 (H.273), which FFmpeg uses as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

UNSPECIFIED = 2
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_MATRIX_NAMES = {1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020"}
_SWSCALE_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""H.273 matrix -> libswscale's own numbering."""
_HD_HEIGHT = 720


@dataclass(frozen=True, slots=True)
class Colour:
    """How samples become light. Defaults are "not said"."""

    matrix: int = UNSPECIFIED
    full_range: bool | None = None
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def resolved(self, height: int, *, is_rgb: bool = False) -> Colour:
        """With matrix and range filled in as players do: by the height in pixels, limited range.

        An x4 picture must be tagged with what its source meant: a player would guess BT.709 for
        a large frame whose samples were made with BT.601.
        """
        matrix = self.matrix
        if matrix == UNSPECIFIED or is_rgb or matrix == 0:
            matrix = 6 if height < _HD_HEIGHT else 1
        full_range = False if self.full_range is None or is_rgb else self.full_range
        return replace(self, matrix=matrix, full_range=full_range)

    @property
    def problem(self) -> str | None:
        """Why frames of this colour cannot be processed without harm, or None."""
        if self.transfer in _HDR_TRANSFERS:
            return f"HDR ({_HDR_TRANSFERS[self.transfer]})"
        if self.matrix not in (*_SWSCALE_MATRICES, 0, UNSPECIFIED):
            return f"colour matrix {self.matrix}"
        return None

    @property
    def matrix_name(self) -> str | None:
        """``bt601``, ``bt709`` or ``bt2020`` for the engine's nv12 graphs; None for another."""
        return None if self.matrix == 4 else _MATRIX_NAMES.get(self.matrix)

    @property
    def swscale_matrix(self) -> int:
        """The matrix in libswscale's numbering. Only after ``resolved``."""
        return _SWSCALE_MATRICES[self.matrix]

    @property
    def swscale_range(self) -> int:
        """The range in FFmpeg's numbering: 1 limited, 2 full."""
        return 2 if self.full_range else 1


RGB_RANGE = 2
"""RGB is always full range."""
SWSCALE_FLAGS = 2 | 0x40000 | 0x2000 | 0x4000
"""Bilinear, accurate rounding, full chroma interpolation out and in."""
SWSCALE_AREA_FLAGS = 0x20 | 0x40000 | 0x2000 | 0x4000
"""Area averaging, accurate rounding, full chroma interpolation out and in."""
