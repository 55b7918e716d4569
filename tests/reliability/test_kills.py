"""kill -9 of workers, servers and both under load: nothing is lost, nothing is made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.kills import QUERIES, run_kills


@pytest.mark.timeout(600)  # seconds of work, minutes on a machine that is busy with other things
def test_five_kills_lose_no_job_and_no_frame(tmp_path: Path) -> None:
    reports = run_kills(5, tmp_path)
    print(reports)
    assert [report.kills for report in reports.values()] == [2, 2, 1]
    for report in reports.values():
        assert report.jobs == report.kills * len(QUERIES)
        assert (report.lost, report.frames_wrong, report.results_changed) == (0, 0, 0)
        assert len(report.recoveries_seconds) == report.kills
    assert sum(report.resumed for report in reports.values()) >= 1
