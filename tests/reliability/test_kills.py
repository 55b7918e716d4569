"""kill -9 of workers, servers and both under load: nothing is lost, nothing is made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.kills import QUERIES, run_kills


@pytest.mark.timeout(600)  # seconds of work, minutes on a machine that is busy with other things
def test_five_kills_lose_no_job_and_no_frame(tmp_path: Path) -> None:
    report = run_kills(5, tmp_path)
    print(report)
    assert (report.kills, report.jobs) == (5, 5 * len(QUERIES))
    assert (report.lost, report.frames_wrong, report.results_changed) == (0, 0, 0)
    assert report.resumed >= 1
