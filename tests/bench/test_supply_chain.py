"""Vulnerabilities are counted only where they could be looked up; the lock and the bill agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.reliability_rows import Found, Row
from bench.supply_chain import (
    BUNDLED,
    Audit,
    add_audit,
    bundled_listed,
    components,
    is_repaired,
    locked,
    packages_listed,
    read_audit,
)

GOOD = {"name": "av", "version": "19.0.2", "vulns": []}
BAD = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
UNKNOWN = {"name": "anyio", "skip_reason": "not found"}


def row(report: Audit | None) -> Row:
    found = Found()
    add_audit(found, report)
    (only,) = found.rows
    return only


def test_advisories_are_counted_and_what_was_not_looked_up_is_never_a_pass() -> None:
    def said(*packages: object) -> tuple[str, bool | None]:
        only = row(read_audit(json.dumps({"dependencies": packages})))
        return only.measured, only.kept

    nothing = "not measured: no answer from the advisory service"
    assert said(GOOD, GOOD) == ("0 of 2", True)
    assert said(GOOD, BAD) == ("1 of 2", False)
    assert said(GOOD, UNKNOWN) == ("0 of 1, 1 unknown to the advisory service", False)
    assert said(UNKNOWN, UNKNOWN) == (nothing, None)
    assert (row(None).measured, row(None).kept) == (nothing, None)
    with pytest.raises(ValueError, match="Expecting value"):
        read_audit("")


@pytest.mark.parametrize(
    ("version", "repaired"),
    [
        ("7.1.5", False),
        ("8.1.2", False),
        ("8.1.3", True),
        ("9.0.1", False),
        ("9.0.2", True),
        ("9.1", True),
        ("10.0", True),
    ],
)
def test_a_release_of_ffmpeg_is_repaired_from_the_first_repair_of_its_series(
    version: str, repaired: bool
) -> None:
    assert is_repaired(version) == repaired


def test_the_lock_has_a_hash_for_each_package_and_the_bill_lists_them_all(tmp_path: Path) -> None:
    pins, loose = locked()
    assert (len(pins) >= 20, loose) == (True, 0)
    assert packages_listed(components()) == pins
    assert set(BUNDLED) <= set(bundled_listed(components()))
    (tmp_path / "lock").write_text("# made\nav==19.0.2\nanyio==1.0 --hash=sha256:" + "0" * 64)
    assert locked(tmp_path / "lock") == ({"anyio": ("1.0", "0" * 64)}, 1)
