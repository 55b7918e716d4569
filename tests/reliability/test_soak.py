"""Short form of ``python bench/soak.py``, and a server that leaks, which it must find."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.soak import MOST_MIB_PER_1000, Sample, _growth, _slope, soak


@pytest.mark.timeout(300)
def test_mixed_requests_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    report = soak(0, tmp_path, requests=190)
    assert report["problems"] == [], report
    assert {"200", "400", "404", "415", "422"} <= set(report["statuses"])
    assert (report["jobs"] >= 7, report["jobs_lost"]) == (True, 0)


@pytest.mark.timeout(300)
def test_a_server_that_leaks_turns_the_check_red(tmp_path: Path) -> None:
    report = soak(0, tmp_path, requests=140, leak=True)
    assert {"descriptors", "threads"} <= set(report["problems"]), report


def test_memory_that_grows_is_measured_and_memory_that_does_not_is_let_off() -> None:
    growing = [Sample(n * 100, 9, 9, 100 + n * 0.2) for n in range(30)]
    level = [Sample(n * 100, 9, 9, 100 + n % 3) for n in range(30)]
    assert _slope(growing) == pytest.approx(2.0)
    assert abs(_slope(level)) < MOST_MIB_PER_1000
    assert _growth([5, 6, 5, 6, 5, 6]) == 0
    assert _growth([5, 6, 7, 8]) == 1
