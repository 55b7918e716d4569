"""What the serving image is made of: known vulnerabilities, FFmpeg, and the bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from bench.reliability_rows import NOT_MEASURED, Found, Sizes

DOCKER = Path(__file__).parents[1] / "docker"
LOCK, BILL = DOCKER / "requirements.txt", DOCKER / "sbom.cdx.json"
REPAIRED_FFMPEG = (Version("8.1.3"), Version("9.0.2"))
"""First of their series without CVE-2026-107697, -107695 and -125267."""
BUNDLED = ("FFmpeg", "avcodec", "x264", "x265", "SvtAv1Enc", "dav1d", "vpx")
"""What the wheel of PyAV carries and no scanner of packages sees."""
AUDIT_SECONDS = 300
_PINNED = re.compile(r"(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})$")


@dataclass(frozen=True)
class Audit:
    """What pip-audit says of the lock file."""

    packages: int
    audited: int
    """Known to the advisory service; the others could not be looked up."""
    vulnerable: dict[str, list[str]]
    """Ids of the advisories for each package that has some, whatever their severity."""


def audit(lock: Path = LOCK) -> Audit | None:
    """Asks PyPI's advisory service; None when pip-audit has no answer at all."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    command += ["--requirement", str(lock), "--format", "json", "--progress-spinner", "off"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=AUDIT_SECONDS, check=False
        )
        return read_audit(answer.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None


def read_audit(answer: str) -> Audit:
    """Counts in the JSON of pip-audit. Raises ValueError when it is none."""
    packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    vulnerable = {
        package["name"]: [entry["id"] for entry in package["vulns"]]
        for package in known
        if package["vulns"]
    }
    return Audit(len(packages), len(known), vulnerable)


def locked(lock: Path = LOCK) -> tuple[dict[str, tuple[str, str]], int]:
    """Version and hash of every package of the lock file, and how many lines have none."""
    lines = [line for line in lock.read_text().splitlines() if line and line[0] != "#"]
    pins = [match.groups() for line in lines if (match := _PINNED.match(line))]
    found = {canonicalize_name(name): (version, digest) for name, version, digest in pins}
    return {str(name): pin for name, pin in found.items()}, len(lines) - len(pins)


def components(bill: Path = BILL) -> list[dict[str, Any]]:
    """Of the bill of materials."""
    listed: list[dict[str, Any]] = json.loads(bill.read_text())["components"]
    return listed


def packages_listed(listed: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Version and hash of every Python package of the bill."""
    return {
        str(canonicalize_name(component["name"])): (
            component["version"],
            component["externalReferences"][0]["hashes"][0]["content"],
        )
        for component in listed
        if component.get("purl", "").startswith("pkg:pypi/")
    }


def bundled_listed(listed: list[dict[str, Any]]) -> dict[str, str]:
    """Version of every library that the wheel of PyAV carries."""
    return {
        component["name"]: component["version"]
        for component in listed
        if component["bom-ref"].startswith("bundled:")
    }


def is_repaired(ffmpeg: str) -> bool:
    """Whether this release of FFmpeg has the repairs that are known to be needed."""
    version = Version(ffmpeg)
    same = [fixed for fixed in REPAIRED_FFMPEG if fixed.major == version.major]
    return version >= (same[0] if same else max(REPAIRED_FFMPEG))


def supply_chain(folder: Path, sizes: Sizes) -> Found:
    """What the serving image is made of."""
    found, report = Found(), audit()
    add_audit(found, report)
    listed = components()
    bundled, (pins, loose) = bundled_listed(listed), locked()
    ffmpeg = bundled.get("FFmpeg", "0")
    least = " or ".join(map(str, REPAIRED_FFMPEG))
    repaired = is_repaired(ffmpeg)
    found.add("FFmpeg of the serving image", f"at least {least}", ffmpeg, repaired)
    total = len(pins) + loose
    found.add("Locked packages with their hash", "all", f"{len(pins)} of {total}", not loose)
    same = sum(packages_listed(listed).get(name) == pin for name, pin in pins.items())
    found.add(
        "Bill of materials: locked packages with version and hash",
        "all",
        f"{same} of {len(pins)}",
        same == len(pins) == len(packages_listed(listed)),
    )
    there = [name for name in BUNDLED if name in bundled]
    found.add(
        f"Bill of materials: of {', '.join(BUNDLED)} in PyAV's wheel",
        "all",
        f"{len(there)} of {len(BUNDLED)} ({len(bundled)} libraries listed)",
        len(there) == len(BUNDLED),
    )
    found.figures = {"audit": report.__dict__ if report else None, "bundled": bundled}
    return found


def add_audit(found: Found, report: Audit | None) -> None:
    """A row for the advisories; where no package could be looked up nothing can be said."""
    what, wanted = "Locked packages with a known vulnerability, of any severity", "0"
    if report is None or not report.audited:
        found.add(what, wanted, f"{NOT_MEASURED}: no answer from the advisory service", None)
        return
    bad, known = len(report.vulnerable), report.audited == report.packages
    measured = f"{bad} of {report.audited}"
    if not known:
        measured += f", {report.packages - report.audited} unknown to the advisory service"
    found.add(what, wanted, measured, not bad and known)
