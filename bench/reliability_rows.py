"""What the parts of ``bench/reliability.py`` are made of: sizes, rows and what a part found."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import av

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    generated: int
    flips: int
    cuts: int
    kills: int
    soak_requests: int
    soak_seconds: float
    chaos_seconds: float
    leak_requests: int = 140


FULL = Sizes(5000, 5000, 1000, 60, 2000, 0, 1800)
SHORT = Sizes(1000, 1000, 200, 5, 0, 120, 0)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    wanted: str
    measured: str
    kept: bool | None
    """None where nothing can be said, which ``measured`` explains."""


@dataclass
class Found:
    """What a part has to say."""

    rows: list[Row] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, what: str, wanted: str, measured: object, kept: bool | None) -> None:
        self.rows.append(Row(what, wanted, str(measured), kept))

    def add_most(self, what: str, wanted: str, value: float | None, most: float, unit: str) -> None:
        """A figure with an upper limit; one that is None was not measured, which is a miss."""
        if value is None:
            self.add(what, wanted, NOT_MEASURED, False)
        else:
            self.add(what, wanted, f"{value}{unit}", value <= most)


@dataclass(frozen=True)
class Part:
    """``run`` gets an empty folder; ``is_short`` parts belong to the short form, too."""

    run: Callable[[Path, Sizes], Found]
    is_short: bool = False


def versions() -> dict[str, str]:
    """Of what decodes, encodes and serves."""
    packages = ("pillow", "fastapi", "starlette", "uvicorn", "python-multipart", "schemathesis")
    ffmpeg = {"av": av.__version__, "ffmpeg": str(av.ffmpeg_version_info)}
    return {
        "python": platform.python_version(),
        **ffmpeg,
        **{package: metadata.version(package) for package in packages},
    }
