"""One input of the corpus: how it is made and which part of the service it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Route = Literal["session", "decode", "picture"]
"""``session``: the whole way of a video. ``decode``: the decode child only (broken input)."""


@dataclass(frozen=True)
class Item:
    """``make`` writes the input to the path that it is given."""

    name: str
    route: Route
    make: Callable[[Path], object]


def from_bytes(prefix: str, route: Route, contents: dict[str, bytes]) -> list[Item]:
    """Items whose content is already there."""

    def writer(content: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(content)

    return [Item(f"{prefix}/{name}", route, writer(content)) for name, content in contents.items()]
