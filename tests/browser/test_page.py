"""The page in headless Chromium, as a person uses it: by pointer, by keyboard, on a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_MS = 30_000
WATCH_NUMBERS = """
window.seen = [];
new MutationObserver(() => seen.push(document.querySelector("#numbers").textContent)).observe(
  document.querySelector("#numbers"), { childList: true });
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("data"), SR_WORKERS="2") as running:
        wait_ready(running)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: playwright.Browser, server: LiveServer) -> Iterator[playwright.Page]:
    """The page; a console error, a foreign request or an exception on it fails the test."""
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(DEADLINE_MS)
    problems: list[str] = []
    opened.on("console", lambda m: m.type == "error" and problems.append(m.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "request",
        lambda r: r.url.startswith((server.url, "blob:")) or problems.append(r.url),
    )
    opened.goto(server.url)
    yield opened
    context.close()
    assert problems == []


def choose(page: playwright.Page, name: str, kind: str, body: bytes) -> None:
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": body}])


def test_a_picture_is_compared_and_downloaded(page: playwright.Page) -> None:
    playwright.expect(page.locator("#engine")).to_contain_text("nearest")
    choose(page, "holiday.png", "image/png", png(40, 30))
    playwright.expect(page.locator("#result-title")).to_contain_text("160 × 120")
    playwright.expect(page.locator("#stages dt")).to_have_text(["decode", "upscale", "encode"])
    split = "getComputedStyle(document.querySelector('#pair')).getPropertyValue('--split')"
    assert page.evaluate(split) == "50%"
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(split) == "51%"
    page.locator("#slider").fill("10")
    assert page.evaluate(split) == "10%"
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "holiday_x4.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_a_video_is_watched_compared_and_downloaded(page: playwright.Page, data: Path) -> None:
    clip = (data / "demo" / "city_256x256.mp4").read_bytes()
    page.evaluate(WATCH_NUMBERS)  # they may be gone before a poll sees them
    with page.expect_response("**/preview") as preview:
        choose(page, "city.mp4", "video/mp4", clip)
    assert preview.value.headers["content-type"] == "image/jpeg"
    playwright.expect(page.locator("#result-title")).to_contain_text("1024 × 1024, 41 frames")
    assert re.search(r"\d+ of 41 frames · [\d.]+ fps · \d+ s left", page.evaluate("seen.join()"))
    films = page.locator("#pair video")
    playwright.expect(films).to_have_count(2)
    ready = "[...document.querySelectorAll('#pair video')].every((film) => film.readyState >= 2)"
    wait_until(lambda: bool(page.evaluate(ready)), "films that can be played")
    page.click("#play")
    playing = "document.querySelector('#pair .after').currentTime > 0.1"
    wait_until(lambda: bool(page.evaluate(playing)), "a film that plays")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename.endswith(".mp4")
    playwright.expect(page.locator("#jobs li")).to_have_count(1)
    playwright.expect(page.locator("#jobs li")).to_contain_text("done")
    page.get_by_role("button", name="Delete job").click()
    playwright.expect(page.locator("#jobs li")).to_have_count(0)


def test_a_refusal_is_shown_in_words(browser: playwright.Browser, server: LiveServer) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    choose(page, "notes.png", "image/png", b"these are no pixels")
    playwright.expect(page.locator("#message")).to_contain_text("not a supported picture")
    context.close()


def test_it_fits_a_phone_and_can_be_used_by_keyboard_in_the_dark(
    browser: playwright.Browser, server: LiveServer
) -> None:
    size = {"width": 360, "height": 740}
    context = browser.new_context(viewport=size, color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    choose(page, "a.png", "image/png", png(300, 200))
    playwright.expect(page.locator("#result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"file", "height", "download", "viewport", "slider", "zoom"} <= reached
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(18, 20, 23)"
    context.close()


def test_the_key_in_the_address_opens_a_public_server(
    browser: playwright.Browser, tmp_path: Path
) -> None:
    with live_server(tmp_path, "--host", "0.0.0.0") as server:
        wait_ready(server)
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/#key={server.key}")
        choose(page, "a.png", "image/png", png())
        playwright.expect(page.locator("#result-title")).to_contain_text("64 × 64")
        assert "key" not in page.url
        stranger = browser.new_context()
        page = stranger.new_page()
        page.goto(server.url)
        playwright.expect(page.locator("#key-form")).to_be_visible()
        page.fill("#key", server.key)
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#key-form")).to_be_hidden()
        stranger.close()
        context.close()
