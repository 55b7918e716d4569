"""The part ``integrity`` of ``bench/reliability.py``: videos there and back, and its controls."""

from __future__ import annotations

from pathlib import Path

from bench.reliability_rows import Found, Sizes
from tests.reliability.integrity import CONTAINERS, Integrity, expected_refusals, run_integrity
from tests.reliability.lossy import (
    SOURCES,
    engine_that_loses_a_frame,
    session_that_loses_a_frame,
)

ROOT = Path(__file__).parents[1]


def integrity(folder: Path, sizes: Sizes) -> Found:
    """Every good video there and back."""
    report = run_integrity(folder, ROOT.parent / "shared" / "data" / "video")
    found = ledger(report, expected_refusals())
    for who, session in (
        ("an engine", engine_that_loses_a_frame),
        ("a session", session_that_loses_a_frame),
    ):
        control = run_integrity(folder, session=session, only=SOURCES)
        red, of = len(control.red()), len(SOURCES) * len(CONTAINERS)
        what = f"Positive control: results of {who} that loses a frame which turn the ledger red"
        found.add(what, "all", f"{red} of {of}", red == of)
    return found


def ledger(report: Integrity, expected: dict[str, str]) -> Found:
    """The rows of ``report``; what was refused is one of them, so that nothing hides there."""
    found = Found(figures={"videos": [each.__dict__ for each in report.videos]})
    found.figures["refused"] = report.refused
    for what, wanted, good, of in report.totals():
        found.add(what, wanted, f"{good} of {of}", good == of > 0)
    judged, due = report.judged(), [name for name in report.sources if name not in expected]
    found.add(
        f"Ledger: sources with a result in each of {', '.join(CONTAINERS)}",
        "all that are not to be refused",
        f"{len(judged)} of {len(due)}",
        judged == due,
    )
    surprises = {**report.refused, **expected}.items() - expected.items()
    surprises |= expected.items() - report.refused.items()
    as_written = sorted(report.refused.items() & expected.items())
    told = ", ".join(f"{name.rpartition('/')[2]} ({code})" for name, code in as_written)
    if surprises:
        told += f"; not as written: {', '.join(sorted(name for name, _ in surprises))}"
    found.add(
        "Ledger: sources refused, each with the code that corpus.json has for it",
        f"{len(expected)}, no other",
        f"{len(report.refused)} of {len(report.sources)}: {told}",
        not surprises,
    )
    return found
