"""The page while its server dies and comes back."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.browser.chromium import CHROMIUM, DEADLINE_MS, choose
from tests.server.live import lasting_port, live_server, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]


def test_a_job_is_watched_to_its_end_over_a_restart(
    browser: playwright.Browser, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    clip = write_clip(tmp_path / "clip.mp4", Clip(width=64, height=48, frames=41)).read_bytes()
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(DEADLINE_MS)
    exceptions: list[str] = []
    page.on("pageerror", lambda error: exceptions.append(str(error)))
    numbers = page.locator("#numbers")
    port = ("--port", str(lasting_port()))
    gated = (*port, "20", str(tmp_path))
    with live_server(tmp_path / "data", *gated, module="tests.server.gated_server") as first:
        wait_ready(first)
        page.goto(first.url)
        choose(page, "clip.mp4", "video/mp4", clip)
        wait_until((tmp_path / "reached").exists, "a job in its middle")
        playwright.expect(numbers).to_have_text(re.compile("worker|frames"))  # it is watched
        first.stop(signal.SIGKILL)
        playwright.expect(numbers).to_contain_text("reconnecting")
        playwright.expect(page.locator("#work")).to_be_visible()
    with live_server(tmp_path / "data", *port):
        result = playwright.expect(page.locator("#result-title"))
        result.to_contain_text("256 × 192, 41 frames")
        playwright.expect(page.locator("#jobs li")).to_contain_text("done")
        playwright.expect(page.locator("#message")).to_be_empty()
        context.close()
    assert exceptions == []
