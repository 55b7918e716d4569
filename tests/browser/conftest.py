"""One Chromium for each file of tests; while it runs, so does an event loop of Playwright's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.chromium import CHROMIUM, DEADLINE_MS


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser with a camera that shows a picture which changes all the time."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=DEADLINE_MS)  # its own 5 s are little on a busy machine
    with sync_api.sync_playwright() as running:
        flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])
        yield opened
        opened.close()
