"""The part ``tests`` of ``bench/reliability.py``: figures that tests of the suite measure.

A test tells its figure to ``tests.reliability.figures``; of others the cases are counted, by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from bench.reliability_rows import NOT_MEASURED, Found, Sizes
from tests.reliability.figures import VARIABLE, read

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Figure:
    """One row out of a run of tests."""

    what: str
    wanted: str
    told: str = ""
    """The name under which a test tells it; else cases are counted."""
    cases: str = ""
    """How the names of the tests that are counted begin; all by default."""


@dataclass(frozen=True)
class Suite:
    """One run of pytest; none of its figures is kept when one of its tests fails."""

    arguments: tuple[str, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Ran:
    """What came of a suite."""

    cases: dict[str, bool]
    """Every case, and whether it passed."""
    told: dict[str, list[object]]

    def measured(self, figure: Figure) -> tuple[str, bool]:
        """The text of a row and whether its target is kept."""
        all_passed = bool(self.cases) and all(self.cases.values())
        if figure.told:
            values = self.told.get(figure.told, [])
            return ", ".join(map(str, values)) or NOT_MEASURED, bool(values) and all_passed
        counted = [good for name, good in self.cases.items() if name.startswith(figure.cases)]
        return f"{sum(counted)} of {len(counted)}", bool(counted) and all_passed


def run_suite(suite: Suite, folder: Path) -> Ran:
    """Runs it in a process of its own; ``folder`` is for its reports."""
    report, told = folder / "report.xml", folder / "told"
    for place in (report, told):
        place.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *suite.arguments]
    environment = {**os.environ, VARIABLE: str(told)}
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False, env=environment)
    cases: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = any(case.find(end) is not None for end in ("failure", "error", "skipped"))
        cases[case.attrib["name"]] = cases.get(case.attrib["name"], True) and not bad
    return Ran(cases, read(told))


def tests(folder: Path, sizes: Sizes) -> Found:
    """What the test suite shows."""
    found = Found()
    for suite in SUITES:
        ran = run_suite(suite, folder)
        for figure in suite.figures:
            measured, kept = ran.measured(figure)
            found.add(figure.what, figure.wanted, measured, kept)
        failed = [name for name, good in ran.cases.items() if not good]
        found.figures[" ".join(suite.arguments)] = {
            "cases": len(ran.cases),
            "failed": failed,
            "told": ran.told,
        }
    return found


SUITES = (
    Suite(
        ("tests/reliability/test_corpus.py",),
        (Figure("Corpus: inputs that come out as written", "all", cases="test_an_input"),),
    ),
    Suite(
        ("tests/reliability/test_http_abuse.py", "-k", "not generated"),
        (
            Figure(
                "Requests that break HTTP or forms: refused, nothing left",
                "all",
                cases="test_a_request_that",
            ),
            Figure(
                "`Content-Digest`: algorithm x kind of body, another body refused",
                "all",
                cases="test_a_body_is_checked",
            ),
        ),
    ),
    Suite(
        ("tests/reliability/test_escapes.py",),
        (
            Figure(
                "Escapes of hostile containers: packets / connections / looks at a sibling / "
                "files left",
                "0 / 0 / 0 / 0",
                told="escapes",
            ),
            Figure(
                "Positive control: the same of two of them, opened without our guard",
                "none is 0",
                told="escapes of the control",
            ),
        ),
    ),
    Suite(
        ("tests/server/media/test_sandbox.py",),
        (Figure("Attempts refused to a confined media child", "all", told="refused to a child"),),
    ),
    Suite(
        ("tests/reliability/test_faults.py",),
        (
            Figure(
                "Faulty devices: kinds of fault that cost a worker and leave the result of a clean "
                "run",
                "all",
                cases="test_a_fault_costs",
            ),
            Figure(
                "Faulty devices: wrong results noticed at their frame",
                "all",
                cases="test_a_wrong_result",
            ),
            Figure(
                "Faulty devices: false alarms over frames of a good one", "0", told="false alarms"
            ),
        ),
    ),
    Suite(
        ("tests/reliability/test_disk.py",),
        (
            Figure(
                "Disk full: clean 507, nothing left, the next job works",
                "all",
                cases="test_a_full_disk",
            ),
            Figure("Names that appear before their bytes are safe", "0", told="early names"),
        ),
    ),
    Suite(
        ("tests/server/test_app_streams.py",),
        (
            Figure(
                "Frames made after a client has left (2 are in flight)",
                "at most 2",
                told="frames after leaving",
            ),
        ),
    ),
    Suite(
        ("tests/server/test_jobs.py", "-k", "link or every_route"),
        (
            Figure("Requests refused without a key: route x credential", "all", told="refused"),
            Figure("Requests refused with another's key: routes of a job", "all", told="foreign"),
        ),
    ),
)
"""In the order of the table."""
