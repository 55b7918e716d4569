"""``docker/check.sh`` with stand-ins for the builder and for what looks at an image."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "hadolint": "exit ${HADOLINT:-0}",
    "id": "echo 0",
    "builder": 'echo "build $3 $5" >> calls; [ "$3" != "${BROKEN-}" ]',
    "make": 'echo "make $*" >> calls',
    "python3": """
        shift; echo "check $*" >> calls
        echo "docker-check: something else"
        if [ "$1" = "${BAD-}" ]; then echo "docker-check: FAILED: it leaks"; exit 1; fi
        echo "docker-check: passed in 3 s: 300 MB"
    """,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docker").mkdir()
    (tmp_path / "engine" / "models").mkdir(parents=True)
    shutil.copy(ROOT / "docker" / "check.sh", tmp_path / "docker")
    (tmp_path / "docker" / "server.Dockerfile").touch()
    (tmp_path / "engine" / "models" / "fast.safetensors").touch()
    for name, script in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return tmp_path


def check(project: Path, *variants: str, **settings: str) -> tuple[int, list[str], list[str]]:
    """(exit code, lines of the summary, what was called)."""
    done = subprocess.run(
        ["bash", str(project / "docker" / "check.sh"), *variants],
        env={
            "PATH": f"{project / 'bin'}:{os.environ['PATH']}",
            "DOCKER_BUILD_CHECK": str(project / "bin" / "builder"),
            "DOCKER_BUILD_CHECK_DIR": str(project),
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    calls = project / "calls"
    summary = done.stdout.partition("] summary\n")[2].splitlines()
    return done.returncode, summary, calls.read_text().splitlines() if calls.exists() else []


def test_every_image_is_built_and_looked_at_and_summed_up_once(project: Path) -> None:
    code, summary, calls = check(project)
    assert code == 0
    assert calls == [
        "build sr-server:cpu RUNTIME=cpu",
        "check sr-server:cpu 450",
        "build sr-server:rtx RUNTIME=rtx",
        "check sr-server:rtx 900 --runtime rtx",
        "make deploy RUN=build/deploy-check RUNTIME=cpu IMAGE=sr-server:deployed",
        "check sr-server:deployed 450 --deployed",
    ]
    assert [line.split(":")[1].strip() for line in summary[:-1]] == [
        "hadolint", "cpu", "rtx", "deployed",
    ]  # fmt: skip
    assert summary[1].endswith(" s, passed in 3 s: 300 MB")
    assert summary[-1].endswith("all passed")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"BROKEN": "sr-server:cpu"}, "cpu: FAILED to build after "),
        ({"BAD": "sr-server:cpu"}, "FAILED: it leaks"),
        ({"HADOLINT": "1"}, "hadolint: FAILED"),
    ],
)
def test_one_failure_fails_the_whole_and_the_rest_is_still_done(
    project: Path, settings: dict[str, str], words: str
) -> None:
    code, summary, calls = check(project, "cpu", "rtx", **settings)
    assert code == 1
    assert any(words in line for line in summary)
    assert summary[-1].endswith("FAILED")
    assert "check sr-server:rtx 900 --runtime rtx" in calls


def test_an_unknown_variant_is_refused(project: Path) -> None:
    assert check(project, "tpu") == (2, [], [])
