"""The browser of these tests: where it is, how long it may take, how it is given a file."""

from __future__ import annotations

import shutil
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_MS = 30_000


def choose(page: Any, name: str, kind: str, body: bytes) -> None:
    """As a person who picks a file in the page's dialog."""
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": body}])
