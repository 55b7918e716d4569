"""Numbers that strangers write into headers and queries."""

from __future__ import annotations

import re

MOST = 10**18
"""What every larger number counts as; nothing here has so many bytes or seconds."""


def whole_number(text: str | None) -> int | None:
    """The number in ASCII digits that ``text`` is; None for anything else.

    ``str.isdigit`` alone also holds for digits like a superscript two, which ``int`` refuses, and
    ``int`` refuses thousands of digits.
    """
    if text is None or re.fullmatch(r"[0-9]+", text) is None:
        return None
    return min(int(text.lstrip("0")[:20] or "0"), MOST)
