from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.nearest import NearestBackend
from engine.frames import Nv12
from engine.upscaler import Upscaler
from server.media import ledger as ledgers
from server.media.decode import DecodeOptions, Decoder
from server.media.key_frames import closed
from server.media.limits import command_line_limits
from server.media.probe import info_to_message
from server.media.scan import find_key_frames
from server.segment_plan import Work, choose_cuts, prepare, segment_ticks
from server.segments import join, make_segments, runs, upscale_in_segments
from server.video_options import VideoOptions
from tests.server.media.clips import Clip, read_clip, write_clip

LIMITS = command_line_limits()
IRREGULAR = [3600 * n + (n * 777) % 1500 + 900 for n in range(20)]
B_FRAMES = Clip(
    frames=20,
    time_base=Fraction(1, 90000),
    pts=IRREGULAR,
    options={"bf": "2", "g": "6"},
    audio=("aac",),
)
PLAIN = Clip(frames=20)


def decoded(source: Path, options: DecodeOptions) -> list[tuple[int, str]]:
    """pts and a hash of the pixels of every frame."""
    with Decoder(source, options) as decoder:
        return [(each.pts, _digest(each.frame)) for each in decoder]


def _digest(frame: object) -> str:
    planes = (frame.y, frame.uv) if isinstance(frame, Nv12) else (frame,)
    return hashlib.sha256(b"".join(np.ascontiguousarray(plane) for plane in planes)).hexdigest()


@pytest.mark.parametrize(
    ("clip", "cuts"),
    [
        (B_FRAMES, 4),
        (replace(B_FRAMES, muxer="matroska", time_base=Fraction(1, 1000), pts=None), 4),
        (replace(B_FRAMES, options={"g": "6", "bf": "2", "x264-params": "open-gop=1"}), 1),
        (replace(B_FRAMES, codec="libx265", options={"g": "6"}, audio=()), 1),
        (replace(PLAIN, codec="libvpx-vp9", muxer="matroska", options={"g": "6"}), 4),
        (replace(PLAIN, codec="mpeg4", options={"g": "6"}), 0),
        (replace(B_FRAMES, muxer="mpegts"), 0),
    ],
    ids=["h264-b-frames", "matroska", "open-gop", "hevc-open-gop", "vp9", "mpeg4", "mpegts"],
)
def test_a_video_decoded_in_parts_is_the_video_decoded_at_once(
    clip: Clip, cuts: int, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "source", clip)
    found = find_key_frames(source, LIMITS)
    assert len(found.keys) == cuts
    with Decoder(source, DecodeOptions(LIMITS)) as decoder:
        described = info_to_message(decoder.info)
    whole = decoded(source, DecodeOptions(LIMITS))
    assert len(whole) == 20
    assert found.packets in (0, 20)
    starts = [None, *found.keys[1:]]
    parts = [
        decoded(source, DecodeOptions(LIMITS, from_pts=a, until_pts=b, described=described))
        for a, b in zip(starts, [*starts[1:], None], strict=True)
    ]
    assert [frame for part in parts for frame in part] == whole


@pytest.fixture
def work(tmp_path: Path) -> Work:
    folder = tmp_path / "many"
    folder.mkdir()
    source = write_clip(tmp_path / "source", B_FRAMES)
    return Work(source, folder, VideoOptions(), "mp4", segment_seconds=0.2)


@pytest.fixture
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(NearestBackend()) as opened:
        yield opened


def test_segments_made_in_any_order_give_the_same_file_as_one_after_the_other(
    work: Work, upscaler: Upscaler, tmp_path: Path
) -> None:
    ledger = prepare(work, upscaler.info, lambda: None)
    assert ledger.missing == [0, 1, 2, 3]
    for number in (2, 0, 3, 1):
        rows: list[ledgers.Row] = []
        numbers = range(number, number + 1)
        make_segments(work, ledger.header, numbers, upscaler, rows.append, check=lambda: None)
        ledgers.append(work.folder, rows[0])
        assert number not in prepare(work, upscaler.info, lambda: None).missing
    many, one, alone = tmp_path / "many.mp4", tmp_path / "one.mp4", tmp_path / "one"
    alone.mkdir()
    first = join(work, upscaler.info, many, check=lambda: None, seconds=1.0)
    second = upscale_in_segments(work.source, one, alone, upscaler, segment_seconds=0.2)
    assert first.pts_sha256 == second.pts_sha256
    assert many.read_bytes() == one.read_bytes()
    assert read_clip(many).payloads == read_clip(work.source).payloads


def test_only_the_damaged_segment_of_a_plan_is_made_again(work: Work, upscaler: Upscaler) -> None:
    target = work.source.with_name("a.mp4")
    upscale_in_segments(work.source, target, work.folder, upscaler, segment_seconds=0.2)
    before = target.read_bytes()
    (work.folder / ledgers.segment_name(1)).write_bytes(b"damaged")
    assert prepare(work, upscaler.info, lambda: None).missing == [1]
    manifest = upscale_in_segments(work.source, target, work.folder, upscaler, segment_seconds=0.2)
    assert manifest.frames_in == manifest.frames_out == 20
    assert "resumed after 14 frames" in manifest.warnings[0]
    assert target.read_bytes() == before


def test_a_repetition_at_a_cut_is_made_anew_so_that_segments_stand_alone(
    tmp_path: Path, upscaler: Upscaler
) -> None:
    clip = replace(B_FRAMES, still=True, options={"g": "6", "sc_threshold": "0", "qp": "0"})
    folder = tmp_path / "segments"
    folder.mkdir()
    source = write_clip(tmp_path / "source", clip)
    target = tmp_path / "a.mp4"
    manifest = upscale_in_segments(source, target, folder, upscaler, segment_seconds=0.2)
    ledger = ledgers.read(folder)
    assert ledger is not None
    assert [len(row.pts) - row.reused for row in ledger.rows] == [1, 1, 1, 1]
    assert manifest.frames_reused == 16
    assert read_clip(target).seconds == read_clip(source).seconds


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True), st.data())
def test_a_key_frame_is_closed_when_all_earlier_frames_are_shown_before_it(
    pts: list[int], data: st.DataObject
) -> None:
    indices = data.draw(st.lists(st.sampled_from(range(len(pts))), unique=True).map(sorted))
    found = closed(pts, [(index, pts[index]) for index in indices])
    expected = [
        pts[index]
        for index in indices
        if all(early < pts[index] for early in pts[:index])
        and all(late > pts[index] for late in pts[index + 1 :])
    ]
    assert found == expected


@given(st.lists(st.integers(1, 1000), max_size=20, unique=True).map(sorted), st.integers(1, 300))
def test_cuts_are_key_frames_neither_too_near_nor_too_far_apart(
    keys: list[int], ticks: int
) -> None:
    def lengths(number: int) -> int:
        return min(ticks, 10 * 2**number)

    cuts = choose_cuts(keys, 0, 1000, lengths, 4 * ticks)
    if cuts is None:
        return
    places = [0, *cuts, 1000]
    assert set(cuts) <= set(keys)
    assert all(
        after - before >= lengths(number)
        for number, (before, after) in enumerate(zip(places, cuts, strict=False))
    )
    assert all(b - a <= 4 * ticks for a, b in pairwise(places))


@pytest.mark.parametrize(
    ("seconds", "lengths"), [(10, [2, 4, 8, 10, 10]), (3, [2, 3, 3, 3, 3]), (0.5, [0.5] * 5)]
)
def test_the_first_segments_are_short(seconds: float, lengths: list[float], tmp_path: Path) -> None:
    work = Work(tmp_path / "a", tmp_path, VideoOptions(), "mp4", seconds)
    made = [segment_ticks(work, Fraction(1, 90_000), number) for number in range(5)]
    assert made == [round(each * 90_000) for each in lengths]
    assert segment_ticks(work, Fraction(1, 90_000), 10**9) == round(seconds * 90_000)
    assert segment_ticks(work, Fraction(100), 0) == 1


@given(st.sets(st.integers(0, 30)))
def test_runs_are_the_stretches_without_a_gap(numbers: set[int]) -> None:
    found = runs(sorted(numbers))
    assert [number for run in found for number in run] == sorted(numbers)
    assert all(a.stop < b.start for a, b in pairwise(found))
