"""Rows out of test runs: figures that are told, cases that are counted, what is a miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.reliability_tests import SUITES, Figure, Ran, Suite, run_suite

ROOT = Path(__file__).parents[2]
LEFT = Figure("frames", "at most 2", told="left")
FAULTS = Figure("faults", "all", cases="test_fault")


def test_figures_are_read_and_cases_counted_out_of_a_real_run(tmp_path: Path) -> None:
    place = tmp_path / "test_measured.py"
    place.write_text(
        "import pytest\n"
        "from tests.reliability.figures import record\n"
        "@pytest.mark.parametrize('fault', range(3))\n"
        "def test_fault(fault): assert fault != 1\n"
        "def test_other(): record('left', '0 of 9')\n"
    )
    ran = run_suite(Suite((str(place),), (LEFT, FAULTS)), tmp_path)
    assert ran.cases == {
        "test_fault[0]": True,
        "test_fault[1]": False,
        "test_fault[2]": True,
        "test_other": True,
    }
    assert ran.measured(FAULTS) == ("2 of 3", False)
    assert ran.measured(LEFT) == ("0 of 9", False)  # some test of the suite failed


def test_a_figure_is_kept_only_when_it_was_told_and_every_test_passed() -> None:
    good = {"test_fault[a]": True, "test_fault[b]": True, "test_other": True}
    assert Ran(good, {"left": [0, 1]}).measured(LEFT) == ("0, 1", True)
    assert Ran(good, {}).measured(LEFT) == ("not measured", False)
    assert Ran(good, {}).measured(FAULTS) == ("2 of 2", True)
    assert Ran({"test_other": True}, {}).measured(FAULTS) == ("0 of 0", False)
    assert Ran({}, {}).measured(Figure("all", "all")) == ("0 of 0", False)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.arguments[0])
def test_the_tests_that_are_counted_are_there_and_tell_what_is_asked_for(suite: Suite) -> None:
    text = "".join(
        (ROOT / argument).read_text() for argument in suite.arguments if argument.endswith(".py")
    )
    for figure in suite.figures:
        assert f"def {figure.cases}" in text
        if figure.told:
            assert f'"{figure.told}"' in text
