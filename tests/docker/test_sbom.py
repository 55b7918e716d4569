"""The bill of materials is that of the lock file, and of a PyAV whose FFmpeg is repaired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

DOCKER = Path(__file__).parents[2] / "docker"
REPAIRED_FFMPEG = Version("9.0.2")
"""Or 8.1.3: without CVE-2026-107697, -107695 and -125267."""


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCKER / "sbom.cdx.json").read_text())
    return found


def test_the_bill_has_every_package_of_the_lock_file_with_its_hash(bill: dict[str, Any]) -> None:
    listed = {
        (
            canonicalize_name(component["name"]),
            component["version"],
            component["externalReferences"][0]["hashes"][0]["content"],
        )
        for component in bill["components"]
        if component.get("purl", "").startswith("pkg:pypi/")
    }
    locked = set()
    for line in (DOCKER / "requirements.txt").read_text().splitlines()[1:]:
        package, digest = line.split(" --hash=sha256:")
        name, version = package.split("==")
        locked.add((canonicalize_name(name), version, digest))
    assert listed == locked


def test_what_pyav_carries_is_listed_with_its_licences(bill: dict[str, Any]) -> None:
    carried = {
        component["name"]: component
        for component in bill["components"]
        if component["bom-ref"].startswith("bundled:")
    }
    assert {"FFmpeg", "avcodec", "x264", "x265", "SvtAv1Enc", "dav1d", "vpx"} <= set(carried)
    for name in ("FFmpeg", "x264", "x265"):
        assert carried[name]["licenses"] == [{"license": {"id": "GPL-2.0-or-later"}}]
    assert Version(carried["FFmpeg"]["version"]) >= REPAIRED_FFMPEG
