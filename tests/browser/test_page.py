"""The page in headless Chromium, as a person uses it: by pointer, by keyboard, on a phone.

The camera is Chromium's own: a picture that changes all the time.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from tests.browser.chromium import CHROMIUM, DEADLINE_MS, choose
from tests.server.live import LiveServer, live_server, png, wait_ready, wait_until
from tests.server.media.clips import Clip, write_clip

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

SETTINGS = {"SR_SEGMENT_SECONDS": "0.3"}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("data"), SR_WORKERS="2", **SETTINGS) as running:
        wait_ready(running)
        yield running


def new_context(browser: playwright.Browser, **options: Any) -> playwright.BrowserContext:
    context = browser.new_context(**options)
    context.set_default_timeout(DEADLINE_MS)
    return context


@contextmanager
def opened_page(browser: playwright.Browser, server: LiveServer) -> Iterator[playwright.Page]:
    """The page; a console error, a foreign request or an exception on it fails the test."""
    context = new_context(browser, accept_downloads=True)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("console", lambda m: m.type == "error" and problems.append(f"{m.text} {m.location}"))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "request",
        lambda r: r.url.startswith((server.url, "blob:")) or problems.append(r.url),
    )
    opened.goto(server.url)
    yield opened
    context.close()
    assert problems == []


@pytest.fixture
def page(browser: playwright.Browser, server: LiveServer) -> Iterator[playwright.Page]:
    with opened_page(browser, server) as opened:
        yield opened


@pytest.fixture
def gated_page(
    browser: playwright.Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[playwright.Page]:
    """The page of a server that stands still before the frame of this number.

    So the page sees a job that runs, however late it looks. It goes on when the test writes into
    ``gate``.
    """
    os.mkfifo(tmp_path / "gate")
    gate = (str(request.param), str(tmp_path))
    module = "tests.server.gated_server"
    with live_server(tmp_path / "data", *gate, module=module, **SETTINGS) as running:
        wait_ready(running)
        with opened_page(browser, running) as opened:
            yield opened


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


def test_model_and_height_are_chosen(page: playwright.Page) -> None:
    page.select_option("#model", "fast-video")
    page.select_option("#height", "1080")
    with page.expect_response("**/upscale?*") as answer:
        choose(page, "holiday.png", "image/png", png(400, 300))
    assert answer.value.url.endswith("?model=fast-video&height=1080")
    playwright.expect(page.locator("#result-title")).to_contain_text("1440 × 1080")


@pytest.mark.parametrize("gated_page", [20], indirect=True)
def test_a_video_is_watched_compared_and_downloaded(
    gated_page: playwright.Page, tmp_path: Path, data: Path
) -> None:
    page = gated_page
    clip = (data / "demo" / "city_256x256.mp4").read_bytes()
    with page.expect_response("**/preview") as preview:
        choose(page, "city.mp4", "video/mp4", clip)
    assert preview.value.headers["content-type"] == "image/jpeg"
    numbers = re.compile(r"^\d+ of 41 frames · [\d.]+ fps · \d+ s left$")
    playwright.expect(page.locator("#numbers")).to_have_text(numbers)
    (tmp_path / "gate").write_bytes(b"go")
    playwright.expect(page.locator("#result-title")).to_contain_text("1024 × 1024, 41 frames")
    stages = page.locator("#stages dt")
    playwright.expect(stages).to_have_text(["decode", "convert", "upscale", "encode"])
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
    page.get_by_role("button", name="Show job").click()  # its file is not known any more
    playwright.expect(films).to_have_count(1)
    playwright.expect(page.locator("#result")).to_be_visible()
    playwright.expect(page.locator("#slider")).to_be_hidden()
    whole = "getComputedStyle(document.querySelector('#pair .after')).clipPath"
    assert page.evaluate(whole) == "none"
    wait_until(lambda: bool(page.evaluate(ready)), "a film that can be played")
    page.get_by_role("button", name="Delete job").click()
    playwright.expect(page.locator("#jobs li")).to_have_count(0)
    playwright.expect(page.locator("#result")).to_be_hidden()


def test_a_sample_is_picked_by_keyboard(page: playwright.Page) -> None:
    page.locator("[data-sample='/sample.png']").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#result-title")).to_contain_text("768 × 768")
    download = page.locator("#download")
    assert download.get_attribute("download") == "sample_x4.png"
    page.locator("[data-sample='/sample.mp4']").focus()
    with page.expect_response(lambda answer: answer.request.method == "POST") as sent:
        page.keyboard.press("Enter")
    assert sent.value.status == 202


def test_another_tab_sees_jobs_come_and_end_and_keeps_its_focus(
    page: playwright.Page, tmp_path: Path
) -> None:
    body = write_clip(tmp_path / "clip.mp4", Clip()).read_bytes()
    tab = page.context.new_page()
    tab.clock.install()
    tab.goto(page.url)

    def see_new_job() -> playwright.Locator:
        with page.expect_response(lambda answer: answer.request.method == "POST") as sent:
            choose(page, "clip.mp4", "video/mp4", body)
        done = f"[data-job='{sent.value.json()['id']}'][data-state=done]"
        playwright.expect(page.locator(done)).to_be_visible()
        item = tab.locator(done)

        def is_seen() -> bool:
            tab.clock.fast_forward(10_000)  # as long as the page may take
            return item.count() == 1

        wait_until(is_seen, "the job in the other tab")
        return item

    show = see_new_job().get_by_role("button", name="Show")
    show.focus()
    see_new_job()
    assert show.evaluate("button => button === document.activeElement")


@pytest.mark.parametrize(
    ("clip", "kind", "before"),
    [
        (Clip(codec="mpeg4", muxer="avi", frames=20), "video/x-msvideo", 0),
        (Clip(codec="gif", muxer="gif", pixel_format="rgb8", frames=20), "image/gif", 1),
    ],
    ids=["avi", "gif"],
)
def test_a_film_that_the_browser_cannot_play_is_left_out(
    page: playwright.Page, tmp_path: Path, clip: Clip, kind: str, before: int
) -> None:
    body = write_clip(tmp_path / "clip", clip).read_bytes()
    choose(page, f"clip.{clip.muxer}", kind, body)
    playwright.expect(page.locator("#result-title")).to_contain_text("128 × 96, 20 frames")
    playwright.expect(page.locator("#pair video")).to_have_count(1)  # the result
    playwright.expect(page.locator("#pair img[alt=before]")).to_have_count(before)
    playwright.expect(page.locator("#slider")).to_be_visible(visible=before == 1)
    paused = "document.querySelector('#pair .after').paused"
    for name, state in (("Play", False), ("Pause", True), ("Play", False)):
        assert page.locator("#play").inner_text() == name
        page.click("#play")
        wait_until(lambda state=state: page.evaluate(paused) == state, f"a film after {name}")


def test_a_result_that_the_browser_cannot_play_can_be_downloaded(
    page: playwright.Page, tmp_path: Path
) -> None:
    page.route("**/result?*", lambda route: route.fulfill(body="no film", content_type="video/mp4"))
    body = write_clip(tmp_path / "clip.mp4", Clip()).read_bytes()
    choose(page, "clip.mp4", "video/mp4", body)
    playwright.expect(page.locator("#message")).to_contain_text("cannot play the result")
    playwright.expect(page.locator("#play")).to_be_hidden()
    playwright.expect(page.locator("#download")).to_be_visible()


def long_clip(data: Path) -> bytes:
    """The bundled clip six times in a row, picture only."""
    source = (data / "demo" / "city_256x256.mp4").read_bytes()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        for turn in range(6):
            with av.open(io.BytesIO(source)) as container:
                film = container.streams.video[0]
                if turn == 0:
                    copied = output.add_stream_from_template(film)
                for packet in container.demux(film):
                    if packet.dts is None or packet.pts is None:
                        continue
                    shift = turn * film.duration
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = copied
                    output.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("gated_page", [240], indirect=True)
def test_a_video_plays_while_it_is_made(gated_page: playwright.Page, data: Path) -> None:
    page = gated_page
    choose(page, "long.mp4", "video/mp4", long_clip(data))
    plays = """(() => {
        const film = document.querySelector("#follow");
        return !document.querySelector("#work").hidden && !film.hidden && film.currentTime;
    })()"""
    moments: set[float] = set()

    def has_played() -> bool:
        moments.add(page.evaluate(plays) or 0.0)
        return len(moments) > 3

    wait_until(has_played, "a film that plays while it is made")
    numbers = page.locator("#numbers").inner_text()
    made, whole = re.match(r"(\d+) of (\d+) frames", numbers).groups()
    assert int(made) < int(whole) == 246
    assert page.locator("#preview").is_hidden()
    page.click("#cancel")
    playwright.expect(page.locator("#work")).to_be_hidden()
    assert page.evaluate("document.querySelector('#follow').src") == ""


@pytest.mark.parametrize("form", ["jpeg", "rgb24"])
def test_the_camera_comes_back_four_times_larger(
    page: playwright.Page, server: LiveServer, form: str
) -> None:
    page.select_option("#live-size", "160 × 120")
    page.select_option("#live-format", form)
    page.locator("#live-start").focus()
    page.keyboard.press("Enter")
    numbers = page.locator("#live-numbers")
    pattern = (
        r"[\d.]+ fps · latency \d+ ms, p95 \d+ ms · \d+ dropped · 160 × 120 to 640 × 480 by nearest"
    )
    playwright.expect(numbers).to_have_text(re.compile(pattern))
    drawn = """(() => {
        const canvas = document.querySelector("#live-after");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.width, canvas.height, new Set(pixels).size, pixels.slice(0, 40).join()];
    })()"""
    width, height, levels, _ = page.evaluate(drawn)
    assert (width, height) == (640, 480)
    assert levels > 3  # not one flat colour
    moving = lambda: page.evaluate("document.querySelector('#live-after').toDataURL()")  # noqa: E731
    first = moving()
    wait_until(lambda: moving() != first, "a picture that changes")
    page.click("#live-start")
    playwright.expect(page.locator("#live-start")).to_have_text("Start")
    playwright.expect(page.locator("#live-view")).to_be_hidden()
    with server.client() as client:
        wait_until(
            lambda: "sr_live_streams 0.0" in client.get("/metrics").text, "a stream that ended"
        )


def test_a_refusal_is_shown_in_words(browser: playwright.Browser, server: LiveServer) -> None:
    context = new_context(browser)
    page = context.new_page()
    page.goto(server.url)
    choose(page, "notes.png", "image/png", b"these are no pixels")
    playwright.expect(page.locator("#message")).to_contain_text("not a supported picture")
    page.route("**/upscale", lambda route: route.abort())
    choose(page, "a.png", "image/png", png())
    playwright.expect(page.locator("#message")).to_contain_text("send the file again")
    context.close()


def test_it_fits_a_phone_and_can_be_used_by_keyboard_in_the_dark(
    browser: playwright.Browser, server: LiveServer
) -> None:
    size = {"width": 360, "height": 740}
    context = new_context(browser, viewport=size, color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    choose(page, "a.png", "image/png", png(300, 200))
    playwright.expect(page.locator("#result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    reached = set()
    for _ in range(18):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"file", "height", "download", "viewport", "slider", "zoom"} <= reached
    assert {"live-size", "live-format", "live-start"} <= reached
    # At pixel zoom the slider parts what is seen, not what lies outside of the phone.
    seen = """[...document.querySelectorAll("#viewport, #pair")].map((part) => part.offsetWidth)"""
    visible, whole = page.evaluate(seen)
    assert whole == 1200 > visible
    split = "getComputedStyle(document.querySelector('#pair')).getPropertyValue('--split')"
    assert float(page.evaluate(split).rstrip("%")) / 100 * whole == pytest.approx(
        visible / 2, abs=2
    )
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(18, 20, 23)"
    context.close()


def test_the_key_in_the_address_opens_a_public_server(
    browser: playwright.Browser, tmp_path: Path
) -> None:
    with live_server(tmp_path, "--host", "0.0.0.0") as server:
        wait_ready(server)
        context = new_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/#key={server.key}")
        choose(page, "a.png", "image/png", png())
        playwright.expect(page.locator("#result-title")).to_contain_text("64 × 64")
        assert "key" not in page.url
        page.click("#docs")
        playwright.expect(page.locator("#api")).to_contain_text("POST /upscale")
        playwright.expect(page.locator("#page")).to_be_hidden()
        with page.expect_download() as download:
            page.click("text=OpenAPI")
        assert "/upscale" in json.loads(Path(download.value.path()).read_text())["paths"]
        page.go_back()
        playwright.expect(page.locator("#api")).to_be_hidden()
        playwright.expect(page.locator("#result-title")).to_be_visible()  # nothing was lost
        stranger = new_context(browser)
        page = stranger.new_page()
        page.goto(server.url)
        page.click("#docs")
        playwright.expect(page.locator("#key-form")).to_be_visible()
        playwright.expect(page.locator("#message")).to_contain_text("needs a key: enter it above")
        page.fill("#key", "a wrong one")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#message")).to_contain_text("This key is not known here")
        page.fill("#key", server.key)
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#key-form")).to_be_hidden()
        playwright.expect(page.locator("#api")).to_contain_text("POST /upscale")
        playwright.expect(page.locator("#message")).to_be_empty()
        stranger.close()
        context.close()
