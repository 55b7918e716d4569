"""The load test itself: that it runs, counts what it saw, and judges each target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from bench.load import TARGETS, judge, main, others_seconds, overall
from bench.load_clients import at_quarters, slope_mb_per_minute

GOOD: dict[str, Any] = {
    "others_cpu_share": 0.0,
    "other_statuses": 0,
    "rejected_p99_ms": 100.0,
    "livez_p99_ms": 1.0,
    "loop_lag_max_ms": 250.0,
    "memory_mb_per_minute": -3.0,
    "descriptors_left": 0,
    "spool_files_left": 0,
    "slow_headers_factor": 2.0,
    "requests_against_litserve": 1.0,
}


def test_each_target_is_judged_at_its_limit_and_just_beyond() -> None:
    assert set(judge(GOOD).values()) == {"kept"}
    for target in TARGETS:
        limit = target.most if target.most is not None else target.least
        assert limit is not None
        beyond = limit + (0.1 if target.most is not None else -0.1)
        verdict = judge({**GOOD, target.name: beyond})
        assert {name for name, word in verdict.items() if word == "broken"} == {target.name}


def test_times_are_not_judged_while_others_use_the_machine_but_counts_are() -> None:
    shared = {**GOOD, "others_cpu_share": 0.6}
    assert judge({**shared, "livez_p99_ms": 900.0})["livez_p99_ms"] == "not judged"
    assert judge(shared)["livez_p99_ms"] == "kept"
    assert judge(shared)["requests_against_litserve"] == "not judged"
    assert overall(judge(shared)) == "not all judged"
    assert overall(judge(GOOD)) == "kept"
    assert overall(judge({**shared, "other_statuses": 1})) == "broken"
    assert judge({**shared, "other_statuses": 1})["other_statuses"] == "broken"
    assert judge({**shared, "memory_mb_per_minute": None})["memory_mb_per_minute"] == "not measured"


def test_our_own_processes_are_not_others() -> None:
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        found = {pid for pid, _ in others_seconds()}
        assert child.stdin is not None
        child.stdin.close()
    assert not {os.getpid(), child.pid} & found
    assert psutil.Process().ppid() in found


@pytest.mark.parametrize(
    ("size_at", "expected"),
    [(lambda second: 5e7, 0.0), (lambda second: 5e7 + second * 1e6 / 60, 1.0)],
)
def test_the_slope_of_memory_is_that_of_the_second_half(
    size_at: Callable[[float], float], expected: float
) -> None:
    start = [(float(second), second * 1e6) for second in range(60)]
    steady = [(float(second), size_at(second)) for second in range(60, 120)]
    assert slope_mb_per_minute(start + steady) == pytest.approx(expected, abs=0.01)


def test_a_short_run_gives_only_200_and_503_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = ["--seconds=1.5", "--in-flight=60", "--queue=3", "--slow-sockets=40", "--quiet=8"]
    main([*load, "--turns=1", "--turn-seconds=0.5", "--litserve-python=none"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("other_statuses", "descriptors_left", "spool_files_left"):
        assert result["targets"][name] == "kept", result
    assert result["made"] > 0
    assert result["rejected"] > 0
    assert result["ours"]["made"] > 0
    assert result["ours_without_decode_child"]["made"] > 0
    assert result["http_cpu_ms_per_request"] > 0


def test_memory_is_shown_at_its_quarters() -> None:
    grown = [(float(second), 1e6 * (second + 10)) for second in range(9)]
    assert at_quarters(grown) == [10, 12, 14, 16, 18]
    assert at_quarters(grown[:1]) == [10] * 5
    assert at_quarters([]) == []
