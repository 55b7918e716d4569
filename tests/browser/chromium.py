"""The browser of these tests: where it is, how long it may take, how it is given a file."""

from __future__ import annotations

import shutil
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_MS = 90_000
"""As long as the server's own tests wait: a first frame took 29 s under six times the work."""


def choose(page: Any, name: str, kind: str, body: bytes) -> None:
    """As a person who picks a file in the page's dialog."""
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": body}])
