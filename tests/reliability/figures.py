"""What a test measured, for the table of docs/reliability.md: a line of JSON in ``$SR_FIGURES``."""

from __future__ import annotations

import json
import os
from pathlib import Path

VARIABLE = "SR_FIGURES"
"""Names the file; without it nothing is kept."""


def record(name: str, measured: object) -> None:
    """Keeps ``measured`` under ``name``. Call it before what is asserted: a miss is shown, too."""
    if place := os.environ.get(VARIABLE):
        with Path(place).open("a") as file:
            file.write(json.dumps([name, measured]) + "\n")


def read(place: Path) -> dict[str, list[object]]:
    """Everything that was recorded in ``place``, by name."""
    found: dict[str, list[object]] = {}
    for line in place.read_text().splitlines() if place.exists() else []:
        name, measured = json.loads(line)
        found.setdefault(name, []).append(measured)
    return found
