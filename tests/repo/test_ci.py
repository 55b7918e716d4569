"""``.ci/run`` with commands that pretend: what it runs, what it ends with, what it survives."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

RUN = Path(__file__).parents[2] / ".ci" / "run"

COMMANDS = {
    # make TARGET does what MAKE_TARGET says; `make -n` finds a target unless it is told not to.
    "make": """
        if [ "$1" = -n ]; then [ "$2" != "${MISSING-}" ]; exit; fi
        echo "make $1 strict=$SR_TEST_STRICT as ${AS:-itself}" >> "$CALLS"
        eval "$(printenv "MAKE_$(echo "$1" | tr a-z- A-Z_)")"
    """,
    "setpriv": 'options="$1 $2"; shift 2; AS=$options exec "$@"',
    "chromium": "exit 0",
    "id": 'echo "${USER_ID:-0}"',
}
SUMMARY = "12 passed, 3 skipped in 45.60s"
PASSING = {
    "CI_STAGES": "browser setup tests cluster images reliability",
    "MAKE_SETUP": "true",
    "MAKE_TEST": f"echo '{SUMMARY}'",
    "MAKE_CLUSTER_CHECK": "echo '3 passed in 1.00s'",
    "MAKE_DOCKER_CHECK": "echo 'docker-check: all passed'",
    "MAKE_RELIABILITY_SHORT": "echo '2 passed in 1.00s'",
}


class Outcome:
    """What a run printed, called and returned."""

    def __init__(self, folder: Path, **settings: str) -> None:
        for name, script in COMMANDS.items():
            command = folder / name
            command.write_text(f"#!/bin/sh\n{script}\n")
            command.chmod(0o755)
        calls = folder / "calls"
        calls.touch()
        done = subprocess.run(
            [str(RUN)],
            env={
                **{name: value for name, value in os.environ.items() if "SR_" not in name},
                **PASSING,
                **settings,
                "PATH": f"{folder}:{os.environ['PATH']}",
                "CALLS": str(calls),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.code = done.returncode
        self.lines = done.stdout.splitlines()
        self.calls = calls.read_text().splitlines()

    def about(self, stage: str) -> str:
        """The line of the last list that is about a stage."""
        return [line for line in self.lines if line.startswith(f"ci: {stage}: ")][-1]


def test_all_stages_run_in_order_and_the_tests_as_an_ordinary_user_of_the_scheduler(
    tmp_path: Path,
) -> None:
    done = Outcome(tmp_path)
    assert done.code == 0
    bounded = "strict=1 as --bounding-set=-sys_nice --inh-caps=-sys_nice"
    assert done.calls == [
        "make setup strict=1 as itself",
        f"make test {bounded}",
        f"make cluster-check {bounded}",
        "make docker-check strict=1 as itself",
        f"make reliability-short {bounded}",
    ]
    assert done.lines[-1] == SUMMARY
    for stage in ("browser", "setup", "tests", "cluster", "images", "reliability"):
        assert re.search(r"passed after \d+ s$", done.about(stage))


def test_the_worst_stage_decides_and_the_others_still_run(tmp_path: Path) -> None:
    done = Outcome(
        tmp_path,
        MAKE_TEST="echo '1 failed, 11 passed in 9.00s (0:00:09)'; exit 2",
        MAKE_DOCKER_CHECK="exit 7",
        MAKE_RELIABILITY_SHORT="echo '5 passed in 2.00s'; exit 1",
    )
    assert done.code == 7
    assert len(done.calls) == 5
    assert done.lines[-1] == "1 failed, 11 passed in 9.00s (0:00:09)"
    assert "FAILED with 2" in done.about("tests")
    assert "FAILED with 7" in done.about("images")


def test_a_stage_that_hangs_is_ended_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    # What it started in a session of its own outlives it and holds its output open.
    hanging = "echo begun; setsid sleep 30 & sleep 60"
    done = Outcome(tmp_path, MAKE_SETUP=hanging, CI_SETUP_LIMIT="0.5s")
    assert done.code == 124
    assert "begun" in done.lines
    assert "ENDED BY ITS LIMIT of 0.5s" in done.about("setup")
    assert len(done.calls) == 5
    assert done.lines[-1] == SUMMARY


def test_tests_that_end_before_their_summary_do_not_borrow_another_one(tmp_path: Path) -> None:
    done = Outcome(tmp_path, MAKE_TEST="echo 'ruff found 1 error'; exit 2")
    assert done.code == 2
    assert re.match(r"1 error in \d+s \(", done.lines[-1])


def test_a_target_that_is_not_there_is_not_called(tmp_path: Path) -> None:
    done = Outcome(tmp_path, MISSING="reliability-short")
    assert done.code == 0
    assert [call.split()[1] for call in done.calls] == [
        "setup",
        "test",
        "cluster-check",
        "docker-check",
    ]


def test_only_the_stages_that_are_named_run(tmp_path: Path) -> None:
    done = Outcome(tmp_path, CI_STAGES="setup tests")
    assert (done.code, len(done.calls)) == (0, 2)
    assert done.lines[-1] == SUMMARY


def test_who_is_not_root_has_no_real_time_priority_to_give_up(tmp_path: Path) -> None:
    assert Outcome(tmp_path, USER_ID="1000").calls[1] == "make test strict=1 as itself"


def test_the_limits_of_the_stages_add_up_to_45_minutes_at_most() -> None:
    minutes = re.findall(r"_LIMIT:-(\d+)m\}", RUN.read_text())
    assert len(minutes) == 6
    assert sum(map(int, minutes)) <= 45
