"""Writes docker/requirements.txt: every package of the image with its version and its hash.

Run it with the image's Python (3.12) on x86-64 Linux after a change to pyproject.toml or
constraints.txt:  python3.12 docker/lock.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = Path(__file__).with_name("requirements.txt")
HEADER = "# Made by docker/lock.py for CPython 3.12 on x86-64 Linux; do not edit.\n"


def resolve(requirements: list[str]) -> list[str]:
    """``name==version --hash=sha256:…`` of everything that pip would install, sorted."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    command += ["--ignore-installed", "--only-binary", ":all:"]
    command += ["--constraint", str(ROOT / "constraints.txt"), *requirements]
    report = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return sorted(map(line, json.loads(report)["install"]), key=str.lower)


def line(item: dict) -> str:  # type: ignore[type-arg]  # pip's own JSON
    """One line of the lock file."""
    about = item["metadata"]
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{about['name']}=={about['version']} --hash=sha256:{digest}"


def main() -> None:
    """Resolves the dependencies of pyproject.toml under constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    LOCK.write_text(HEADER + "\n".join(resolve(project["dependencies"])) + "\n")


if __name__ == "__main__":
    main()
