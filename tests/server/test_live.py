"""The parts of the live mode: order, what is dropped, the header, the options, the JPEG child."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.errors import ApiError
from server.live.jpeg_decoder import JpegDecoder
from server.live.options import LiveOptions, parse_options
from server.live.window import FrameWindow, LiveMode, OutOfOrder, Pace
from server.live.wire import HEADER_BYTES, AnswerHeader, LiveFormat
from server.media.errors import MediaError
from server.settings import Limits

STEPS = st.lists(st.sampled_from(["offer", "take", "answer"]), max_size=60)


def drive(window: FrameWindow, steps: list[str]) -> tuple[list[int], list[int]]:
    """(frames taken, frames answered) when the client, the engine and the answers take turns."""
    taken: list[int] = []
    answered: list[int] = []
    for step in steps:
        if step == "offer" and window.has_room:
            window.offer(b"pixels", 0.0)
        elif step == "take" and (frame := window.take()) is not None:
            taken.append(frame.number)
        elif step == "answer" and len(answered) < len(taken):
            answered.append(window.answer(taken[len(answered)]).number)
    return taken, answered


@given(steps=STEPS, capacity=st.integers(1, 4))
def test_lossless_answers_every_frame_in_order_and_holds_only_a_few(
    steps: list[str], capacity: int
) -> None:
    window = FrameWindow("lossless", capacity)
    drive(window, steps)
    taken, answered = drive(window, ["answer", "take"] * (capacity + 2))
    assert window.dropped == 0
    assert window.received <= window.answered + capacity + 1
    everything = FrameWindow("lossless", capacity)
    taken, answered = drive(everything, [*steps, *["take", "answer"] * 70])
    assert taken == answered == list(range(everything.received))
    assert everything.is_empty


@given(steps=STEPS, capacity=st.integers(1, 4))
def test_latest_never_goes_backwards_and_every_frame_is_answered_or_counted_as_dropped(
    steps: list[str], capacity: int
) -> None:
    window = FrameWindow("latest", capacity)
    taken, answered = drive(window, [*steps, *["take", "answer"] * 70])
    assert taken == answered == sorted(set(taken))
    assert window.received == len(answered) + window.dropped
    assert window.received == steps.count("offer")
    if window.received:
        assert taken[-1] == window.received - 1  # the newest one always comes through


@pytest.mark.parametrize("mode", ["latest", "lossless"])
def test_a_window_refuses_results_out_of_turn_and_frames_without_room(mode: LiveMode) -> None:
    window = FrameWindow(mode, 2)
    for _ in range(2):
        window.offer(b"", 0.0)
        window.take()
    with pytest.raises(OutOfOrder):
        window.answer(1)
    window.offer(b"", 0.0)
    assert window.has_room == (mode == "latest")
    assert window.take() is None  # two are in work
    if mode == "lossless":
        with pytest.raises(OutOfOrder):
            window.offer(b"", 0.0)


@given(
    gaps=st.lists(st.floats(0, 0.2), min_size=1, max_size=50), per_second=st.sampled_from([5.0, 30])
)
def test_the_pace_holds_in_the_long_run_and_lets_a_burst_pass(
    gaps: list[float], per_second: float
) -> None:
    pace, now, passed = Pace(per_second, burst=4), 0.0, 0
    for gap in gaps:
        now += gap
        if not pace.wait_seconds(now):
            pace.take(now)
            passed += 1
    assert passed <= now * per_second + 4.001
    assert passed >= min(len(gaps), 4)


@given(
    frame=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 2**16), st.integers(1, 2**16)),
    form=st.sampled_from(["rgb24", "nv12", "jpeg"]),
    times=st.tuples(st.floats(0, 1e6, width=32), st.floats(0, 1e6, width=32)),
    dropped=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=20),
)
def test_the_header_comes_back_as_it_went(
    frame: int,
    size: tuple[int, int],
    form: LiveFormat,
    times: tuple[float, float],
    dropped: int,
    payload: bytes,
) -> None:
    header = AnswerHeader(frame, *size, form, *times, dropped)
    packed = header.pack()
    assert len(packed) == HEADER_BYTES == 32
    assert AnswerHeader.unpack(packed + payload) == header
    with pytest.raises(ValueError, match="no answer"):
        AnswerHeader.unpack(packed[:-1])


@pytest.mark.parametrize(
    ("given_options", "code"),
    [
        ({"width": "64"}, "bad_parameter"),
        ({"width": "0", "height": "1"}, "bad_parameter"),
        ({"width": 9, "height": 9, "mode": "newest"}, "bad_parameter"),
        ({"width": 9, "height": 9, "in_work": 9}, "bad_parameter"),
        ({"width": 9, "height": 9, "colour": "red"}, "bad_parameter"),
        ({"width": 33, "height": 32}, "over_limit"),
        ({"width": 65, "height": 1}, "over_limit"),
    ],
)
def test_options_that_cannot_be_are_refused(given_options: dict[str, Any], code: str) -> None:
    limits = Limits(max_live_pixels=1024, max_video_side=64)
    with pytest.raises(ApiError) as refused:
        parse_options(given_options, limits)
    assert refused.value.code == code


def test_pixels_and_side_at_their_limit_are_taken() -> None:
    limits = Limits(max_live_pixels=1024, max_video_side=64)
    for width, height in ((32, 32), (31, 33), (64, 16)):
        assert parse_options({"width": width, "height": height}, limits).width == width


@pytest.mark.parametrize(("form", "size"), [("rgb24", 3 * 7 * 5), ("nv12", 7 * 5 + 2 * 4 * 3)])
def test_a_raw_frame_has_exactly_its_size_even_when_that_is_odd(
    form: LiveFormat, size: int
) -> None:
    options = LiveOptions(width=7, height=5, format=form)
    options.check_payload(0, bytes(size))
    for wrong in (size - 1, size + 1, 0):
        with pytest.raises(ApiError, match=f"has {wrong} bytes") as refused:
            options.check_payload(3, bytes(wrong))
        assert (refused.value.limit, refused.value.actual) == (size, wrong)


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_the_jpeg_child_decodes_frame_after_frame_and_refuses_others(data: Path) -> None:
    random = np.random.default_rng(0)
    good = [jpeg(random.integers(0, 256, (21, 13, 3), np.uint8)) for _ in range(3)]
    grey = jpeg(random.integers(0, 256, (21, 13), np.uint8), progressive=True)
    bad = {
        "another size": jpeg(np.zeros((13, 21, 3), np.uint8)),
        "cut short": good[0][:-200],
        "a PNG": next((data / "pictures").glob("*.png")).read_bytes()[:60_000],
        "nothing": b"",
    }
    with JpegDecoder(13, 21) as decoder:
        for frame in (*good, grey):
            expected = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"))
            np.testing.assert_array_equal(decoder.decode(frame), expected)
        for name, frame in bad.items():
            with pytest.raises(MediaError):
                decoder.decode(frame)
            assert decoder.decode(good[0]).shape == (21, 13, 3), name  # it goes on
        os.kill(decoder.pid, signal.SIGKILL)
        with pytest.raises(MediaError, match="SIGKILL"):
            decoder.decode(good[0])
