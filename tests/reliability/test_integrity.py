"""The integrity ledger turns red for whatever is lost, and says what was refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.reliability_ledger import ledger
from tests.reliability.integrity import (
    CONTAINERS,
    JUDGES,
    Integrity,
    Session,
    Video,
    expected_refusals,
    run_integrity,
)
from tests.reliability.lossy import (
    SOURCES,
    engine_that_loses_a_frame,
    session_that_loses_a_frame,
)
from tests.reliability.readings import Reading

GOOD = Reading(
    seconds=[Fraction(n, 25) for n in range(6)],
    sound=[[b"a", b"b"]],
    sound_seconds=[[Fraction(0), Fraction(1, 50)]],
    colour=(1, 1, 1, 1),
    aspect=Fraction(4, 3),
    turn=90,
    streams=2,
    chapters=1,
    title="a",
)
MANIFEST: Any = SimpleNamespace(
    frames_in=6,
    frames_out=6,
    frames_encoded=6,
    warnings=[],
    dropped=[],
    copied=[{"type": "audio"}],
    input={"pixel_format": "yuv420p"},
    output={"container": "mp4", "clock": ""},
)
LATER = Fraction(1, 90000)
CHANGES: dict[str, list[dict[str, Any]]] = {
    "frames": [{"seconds": GOOD.seconds[:-1]}, {"seconds": [*GOOD.seconds, Fraction(1)]}],
    "times": [{"seconds": [*GOOD.seconds[:-1], GOOD.seconds[-1] + LATER]}],
    "offset": [{"sound_seconds": [[Fraction(1, 500), Fraction(1, 50)]]}],
    "sound": [{"sound": [[b"a", b"c"]]}, {"sound": []}],
    "colour": [{"colour": (6, 1, 1, 1)}],
    "shape": [{"turn": 0}, {"aspect": Fraction(1)}],
    "labels": [{"title": None}, {"chapters": 0}],
}


@pytest.mark.parametrize("check", JUDGES)
def test_a_check_is_green_for_what_arrived_and_red_for_what_did_not(check: str) -> None:
    judge = JUDGES[check]
    assert judge(GOOD, GOOD, MANIFEST) is True
    for change in CHANGES.get(check, []):
        assert judge(GOOD, replace(GOOD, **change), MANIFEST) is False, change
    if check == "streams":
        lost = SimpleNamespace(**{**vars(MANIFEST), "copied": []})
        assert judge(GOOD, GOOD, lost) is False  # type: ignore[arg-type]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("session", [engine_that_loses_a_frame, session_that_loses_a_frame])
def test_a_build_that_loses_a_frame_turns_the_ledger_red(session: Session, tmp_path: Path) -> None:
    report = run_integrity(tmp_path, session=session, only=SOURCES[:1])
    assert (report.refused, len(report.red())) == ({}, len(CONTAINERS))
    assert not any(video.checks["frames"] for video in report.videos)


def test_the_same_videos_are_green_when_nothing_is_lost(tmp_path: Path) -> None:
    report = run_integrity(tmp_path, only=(*SOURCES[:1], "odd video/ten bits"))
    assert report.red() == []
    assert report.judged() == list(SOURCES[:1])
    assert report.refused == {"odd video/ten bits": "bit_depth"}


def row_of_refusals(refused: dict[str, str]) -> tuple[str, bool | None, bool | None]:
    expected = {"odd video/hdr": "hdr", "odd video/alpha": "alpha"}
    judged = {"odd video/vp9", "odd video/hdr"} - set(refused)
    videos = [Video(name, container, 6) for name in sorted(judged) for container in CONTAINERS]
    sources = ["odd video/vp9", "odd video/hdr", "odd video/alpha"]
    *_, complete, row = ledger(Integrity(sources, videos, refused), expected).rows
    return row.measured, row.kept, complete.kept


def test_what_is_refused_is_a_row_and_nothing_hides_in_it() -> None:
    good = {"odd video/hdr": "hdr", "odd video/alpha": "alpha"}
    told = "2 of 3: alpha (alpha), hdr (hdr)"
    assert row_of_refusals(good) == (told, True, True)
    more = {**good, "odd video/vp9": "corrupt"}
    surprise = "; not as written: odd video/vp9"
    assert row_of_refusals(more) == (told.replace("2", "3") + surprise, False, False)
    fewer = {"odd video/alpha": "alpha"}
    assert row_of_refusals(fewer)[0].endswith("not as written: odd video/hdr")
    assert row_of_refusals(fewer)[1] is False
    assert row_of_refusals({**good, "odd video/hdr": "corrupt"})[1] is False


def test_the_refusals_that_are_expected_are_those_of_the_corpus() -> None:
    codes = {"bit_depth", "hdr", "alpha", "unsupported_codec", "size_changed", "encrypted"}
    assert set(expected_refusals().values()) == codes
