"""The README is true: short, its links resolve, its files, targets and options exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.strip().startswith("#")
]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_links_to_files_resolve() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
    assert not missing


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {m for c in COMMANDS for m in re.findall(r"\bmake ([a-z-]+)", c)}
    assert {"demo", "test"} <= targets
    assert not {t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)}


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("sr-upscale", "server.upscale_cli"),
        ("sr-server", "server"),
        ("sr-engine", "engine"),
        ("sr-train", "trainer"),
    ],
)
def test_options_in_the_readme_are_options_of_the_command(command: str, module: str) -> None:
    """Every ``--option`` that follows a command in the README is known to its ``--help``."""
    lines = [c for c in COMMANDS if re.search(rf"(^|[\s/]){command}\b", c)]
    assert lines, f"the README never shows {command}"
    for line in lines:
        words = line.split(command, 1)[1].split("#")[0].split()
        subcommand = [words[0]] if command in ("sr-engine", "sr-train") else []
        shown = subprocess.run(
            [sys.executable, "-m", module, *subcommand, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        ).stdout
        for option in (w.split("=")[0] for w in words if w.startswith("--")):
            assert option in shown, f"{command} has no {option}"
