"""The habits that a machine can check: sizes, names, one place for each fact."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "server", "trainer", "bench")


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def test_no_source_file_is_longer_than_400_lines() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources()}
    assert not {name: n for name, n in lengths.items() if n > 400}


def test_no_file_is_named_for_nothing() -> None:
    empty_names = {"utils.py", "common.py", "helpers.py", "misc.py", "core.py"}
    assert not [p for p in sources() if p.name in empty_names]


def test_the_repository_stays_under_30_mib() -> None:
    assert sum(p.stat().st_size for p in tracked_files()) < 30 * 2**20


def test_only_the_contract_spells_the_tensor_names() -> None:
    from engine import contract

    names = [contract.Y_OUTPUT, contract.UV_OUTPUT]
    spelled = [
        p.relative_to(ROOT)
        for p in sources()
        if p != ROOT / "engine/contract.py" and any(f'"{name}"' in p.read_text() for name in names)
    ]
    assert not spelled


def test_nothing_in_the_repository_names_a_registry_or_this_machine() -> None:
    text_suffixes = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".js", ".html", ".css"}
    forbidden = re.compile(r"pypi\.org|files\.pythonhosted|registry\.npmjs|/work/|/root/")
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path.suffix in text_suffixes and path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not hits


@pytest.mark.parametrize("package", ["engine", "server", "trainer"])
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
