"""``docker/deploy.py``: what goes into the image of a model of one's own, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.models import load_model

ROOT = Path(__file__).parents[2]
FOLLOW = """#!/bin/sh
echo "$0 $*" > command
cp -r build/deploy taken
exit ${RESULT:-0}
"""


class Project:
    """A folder with deploy.py, a run in it, and a builder that keeps what it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docker").mkdir()
        shutil.copy(ROOT / "docker" / "deploy.py", folder / "docker")
        self.run = folder / "run"
        (self.run / "onnx").mkdir(parents=True)
        self.weights = self.run / "weights.safetensors"
        shutil.copy(ROOT / "engine/models/fast.safetensors", self.weights)
        (self.run / "onnx" / "weights.rgb24.fp32.onnx").write_bytes(b"a graph")

    def builder(self, name: str) -> str:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FOLLOW)
        path.chmod(0o755)
        return str(path)

    def deploy(self, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        script = self.folder / "docker" / "deploy.py"
        path = f"{self.folder / 'bin'}:/usr/bin:/bin"
        return subprocess.run(
            [sys.executable, str(script), str(self.weights), str(self.run / "onnx"), *options],
            cwd=self.folder,
            env={"PATH": path, "DOCKER_BUILD_CHECK": "/nowhere/build", **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def command(self) -> list[str]:
        return (self.folder / "command").read_text().split()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_image_gets_the_weights_and_their_chain_and_nothing_stays_behind(
    project: Project,
) -> None:
    docker = project.builder("docker")
    left_over = project.folder / "build" / "deploy" / "older.safetensors"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    done = project.deploy("--runtime", "cpu", "--tag", "mine:1")
    assert done.returncode == 0, done.stderr
    taken = project.folder / "taken"
    chain = json.dumps(json.loads((taken / "chain.json").read_text()), sort_keys=True).encode()
    assert project.command() == [
        *(docker, "build", "-f", "docker/server.Dockerfile", "--build-arg", "RUNTIME=cpu"),
        *("--build-arg", "MODEL=/models/weights.safetensors", "--build-arg"),
        *(f"CHAIN_SHA256={hashlib.sha256(chain).hexdigest()}", "-t", "mine:1", "."),
    ]
    assert sorted(p.name for p in taken.iterdir()) == ["chain.json", "weights.safetensors"]
    model = load_model(str(project.weights))
    assert json.loads((taken / "chain.json").read_text()) == {
        "dataset_sha256": model.metadata["dataset_sha256"],
        "checkpoint_sha256": model.metadata["checkpoint_sha256"],
        "weights_sha256": model.sha256,
        "onnx_sha256": {"weights.rgb24.fp32.onnx": hashlib.sha256(b"a graph").hexdigest()},
    }
    assert not (project.folder / "build" / "deploy").exists()


def test_a_build_script_that_is_named_builds_instead_of_docker(project: Project) -> None:
    project.builder("docker")
    script = project.builder("build-script")
    assert project.deploy(DOCKER_BUILD_CHECK=script).returncode == 0
    assert project.command()[:4] == [script, "docker/server.Dockerfile", ".", "sr-server"]


def test_a_failed_build_is_a_failed_deploy(project: Project) -> None:
    project.builder("docker")
    assert project.deploy(RESULT="5").returncode == 5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.weights.write_bytes(b"?" * 20), "is no safetensors file"),
        (lambda p: p.weights.unlink(), "cannot be read: No such file"),
        (lambda p: save_file({"a": np.zeros(1)}, p.weights), "is not trained"),
        (
            lambda p: save_file({"a": np.zeros(1)}, p.weights, {"trained": "true"}),
            "does not say its dataset_sha256 and checkpoint_sha256",
        ),
        (lambda p: shutil.rmtree(p.run / "onnx"), "holds no ONNX files"),
        (lambda p: (p.folder / "bin" / "docker").unlink(), "neither docker nor /nowhere/build"),
    ],
)
def test_what_cannot_be_deployed_is_one_sentence(project: Project, spoil, words: str) -> None:  # type: ignore[no-untyped-def]
    project.builder("docker")
    spoil(project)
    done = project.deploy()
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("deploy: ")
    assert words in line
