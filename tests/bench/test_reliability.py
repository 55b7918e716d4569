"""The runner keeps what was made, goes on where it stopped, and says what was missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import reliability
from bench.reliability import BEGIN, DOCUMENT, END, Options, as_json, run, summary, with_table
from bench.reliability_parts import _soaked
from bench.reliability_rows import SHORT, Found, Part, Sizes


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two parts in place of the real ones, one of which misses its target."""
    done: list[str] = []

    def part(name: str, kept: bool) -> Part:
        def made(folder: Path, sizes: Sizes) -> Found:
            assert not list(folder.iterdir())
            done.append(name)
            found = Found()
            found.add(f"lost in {name}", "0", int(not kept), kept)
            return found

        return Part(made)

    parts = {"good": part("good", True), "bad": part("bad", False)}
    monkeypatch.setattr(reliability, "PARTS", parts)
    monkeypatch.setattr(reliability, "git_commit", lambda: "abc+")
    return done


def test_what_was_missed_is_said_and_a_part_that_is_done_is_not_run_again(
    runs: list[str], tmp_path: Path
) -> None:
    (tmp_path / "reliability-good.json").write_text(
        json.dumps({"git_commit": "abc", "rows": [], "seconds": 1.0})
    )
    missed = run(Options(["good", "bad"], SHORT, tmp_path))
    assert runs == ["bad"]
    assert missed == ["lost in bad: 1, wanted 0"]
    assert "MISSED: lost in bad: 1, wanted 0" in summary(["good", "bad"], missed, 2.0)
    assert summary(["good"], [], 2.0) == "reliability: 1 parts in 2 s, nothing missed"
    run(Options(["good"], SHORT, tmp_path, again=True))
    assert runs == ["bad", "good"]


def test_a_part_that_raises_is_a_miss_and_the_others_go_on(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path, sizes: Sizes) -> Found:
        raise ValueError("no | answer\nand more")

    monkeypatch.setitem(reliability.PARTS, "good", Part(broken))
    monkeypatch.setattr(reliability, "RESULTS", tmp_path)
    missed = run(Options(["good", "bad"], SHORT, tmp_path))
    assert missed[0] == "Part good: raised ValueError: no / answer, wanted runs to its end"
    assert runs == ["bad"]
    made = with_table(f"{BEGIN}{END}", reliability.kept_results())
    row = "| Part good | runs to its end | raised ValueError: no / answer | **missed** |"
    assert row in made
    assert "Not run yet" not in made
    run(Options(["good"], SHORT, tmp_path))  # raises again: what raised is not done
    assert "Traceback" in json.loads((tmp_path / "reliability-good.json").read_text())["raised"]


def test_memory_that_a_short_soak_cannot_judge_has_a_row_that_says_so(
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = {
        "growth": {"descriptors": 0, "threads": 0},
        "requests": 570,
        "rss_mib_per_1000_requests": 0.9,
        "memory_judged": False,
        "samples_judged": 15,
        "memory_judged_over_requests": 340,
        "problems": [],
    }
    found = _soaked("Mixed requests", report)
    monkeypatch.setitem(reliability.PARTS, "soak", Part(lambda folder, sizes: found))
    monkeypatch.setattr(reliability, "RESULTS", tmp_path)
    assert run(Options(["soak"], SHORT, tmp_path)) == []
    said = "not judged (340 requests after the warm-up, 1,000 are needed): +0.90 MiB"
    assert f"2 figures kept; Mixed requests: memory per 1,000 requests: {said}" in (
        capsys.readouterr().out
    )
    row = f"| Mixed requests: memory per 1,000 requests | < 0.5 MiB | {said} | not judged |"
    assert row in with_table(f"{BEGIN}{END}", reliability.kept_results())


def test_a_result_keeps_a_row_of_numbers_in_one_line() -> None:
    result = {"samples": {"rss": [1, -2.5, 1e-7], "none": []}, "names": ["[ 1, 2 ]", "b"]}
    text = as_json(result)
    assert "[1, -2.5, 1e-07]" in text
    assert json.loads(text) == result


def test_a_figure_that_is_not_there_is_a_miss() -> None:
    found = Found()
    found.add_most("lag", "< 250 ms", None, 250, " ms")
    found.add_most("lag", "< 250 ms", 40.5, 250, " ms")
    assert [(row.measured, row.kept) for row in found.rows] == [
        ("not measured", False),
        ("40.5 ms", True),
    ]


def test_the_table_shows_every_row_and_names_what_is_not_there(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reliability, "RESULTS", tmp_path)
    run(Options(["bad"], SHORT, tmp_path))
    made = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", reliability.kept_results())
    assert made.startswith(f"before\n{BEGIN}\n")
    assert made.endswith(f"{END}\nafter\n")
    assert "| lost in bad | 0 | 1 | **missed** |" in made
    assert "Not run yet: good." in made
    assert "old" not in made


def test_the_document_holds_the_table_of_the_results_that_are_kept() -> None:
    text = DOCUMENT.read_text()
    assert with_table(text, reliability.kept_results()) == text
