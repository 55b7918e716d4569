"""Short form of ``python bench/soak.py``, and a server that leaks, which it must find."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.soak import LEAKS, soak
from bench.soak_samples import (
    MOST_MIB_PER_1000,
    Sample,
    growth,
    judge,
    slope_per_1000,
    take_sample,
)


@pytest.mark.timeout(300)
def test_mixed_requests_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    report = soak(0, tmp_path, requests=190)
    assert report["problems"] == [], report
    assert {"200", "400", "404", "415", "422"} <= set(report["statuses"])
    assert (report["jobs"] >= 7, report["jobs_lost"]) == (True, 0)


@pytest.mark.timeout(300)
def test_a_server_that_leaks_turns_the_check_red(tmp_path: Path) -> None:
    report = soak(0, tmp_path, requests=140, leak=True)
    assert set(LEAKS) <= set(report["problems"]), report


def test_memory_that_grows_is_measured_and_memory_that_does_not_is_let_off() -> None:
    growing = [(n * 100, 100 + n * 0.2) for n in range(30)]
    level = [(n * 100, 100 + n % 3) for n in range(30)]
    assert slope_per_1000(growing) == pytest.approx(2.0)
    assert abs(slope_per_1000(level)) < MOST_MIB_PER_1000


@pytest.mark.parametrize("samples", [6, 12, 20, 60])
@pytest.mark.parametrize("each", [1, 2, 4, 7])
def test_a_slow_leak_is_seen_whatever_comes_and_goes_beside_it(samples: int, each: int) -> None:
    """One more every ``each`` samples; between them, one that comes and goes."""
    leaked = (samples - 1) // each
    for noise in range(4):
        counts = [5 + i // each + (i * 7 + noise) % 3 // 2 for i in range(samples)]
        assert growth(counts) >= (leaked >= 3) * max(1, leaked // 2 - 1), counts


def test_what_only_comes_and_goes_is_no_growth() -> None:
    assert growth([5, 6, 5, 6, 5, 6]) == 0
    assert growth([5] * 9 + [7] + [5] * 10) == 0
    assert growth([5, 5, 3, 5, 5, 5, 5, 5, 5]) == 0  # a worker that had only just been replaced
    assert growth([6, 6, 6, 6, 6, 5]) == 0
    assert growth([5, 6, 7, 8]) == 3


def test_memory_is_judged_late_unless_it_grows_more_than_caches_fill() -> None:
    def problems(samples: int, mib_each: float) -> list[str]:
        return judge([Sample(n * 23, 9, 9, 100 + n * mib_each) for n in range(samples)]).problems

    assert problems(25, 0.1) == []  # 4 MiB per 1,000, but over 300 requests
    assert problems(80, 0.1) == ["memory"]
    assert problems(80, 0.01) == []
    assert problems(7, 6.0) == ["memory"]
    assert problems(2, 0.0) == ["too few samples"]


class FakeProcess:
    """A process without children, whose counts of descriptors are given."""

    def __init__(self, *descriptors: int) -> None:
        self.descriptors = list(descriptors)

    def children(self) -> list[FakeProcess]:
        return []

    def num_fds(self) -> int:
        return self.descriptors.pop(0) if len(self.descriptors) > 1 else self.descriptors[0]

    def num_threads(self) -> int:
        return 4

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=2**20)


def test_what_goes_away_a_moment_later_is_not_counted_and_what_stays_is() -> None:
    before = Sample(0, 9, 4, 1.0)
    passing: Any = FakeProcess(10, 10, 9)
    staying: Any = FakeProcess(10)
    assert take_sample(passing, 23, before) == Sample(23, 9, 4, 1.0)
    assert take_sample(staying, 23, before).descriptors == 10
    assert take_sample(staying, 23, None).descriptors == 10
