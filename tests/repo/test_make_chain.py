"""``make train export plan serve``: what changed is made again, and nothing else is.

The commands are stand-ins that write their call down; one test runs the real ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = "TRAIN_FLAGS=--iterations 2"
REAL_FLAGS = (
    "TRAIN_FLAGS=--iterations 2 --batch 2 --patch 8 --validation-pictures 1 --network.width 4 "
    "--network.body 2 --no-html"
)

STAND_INS = {
    "sr-train": """
        echo "train $*" >> calls
        while [ "$1" != --out ]; do shift; done
        mkdir -p "$2"; echo begun > "$2/checkpoint"
        [ -z "${INTERRUPTED-}" ] || exit 130
        echo "${RESULT:-numbers}" > "$2/weights.safetensors"
    """,
    "sr-engine": """
        echo "$1 $2" >> calls
        case $1 in
          export) mkdir -p "$4"; cp "$2" "$4/custom.rgb24.fp16.onnx" ;;
          build)
            for out; do :; done
            echo plan > "$out"
            sha256sum "$(dirname "$out")"/onnx/*.fp16.onnx > "$out.json" ;;
        esac
    """,
    "sr-server": 'echo "serve $*" >> calls',
}


class Project:
    """A folder with the Makefile, two pictures and an environment of stand-ins."""

    def __init__(self, folder: Path, commands: dict[str, str]) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.pictures = folder / "my pictures"
        self.pictures.mkdir()
        for source in sorted((ROOT / "tests/data/train_small").glob("gb82_*.webp"))[:2]:
            shutil.copy(source, self.pictures)
        shutil.copytree(self.pictures, folder / "tests/data/train_small")
        binaries = folder / ".venv" / "bin"
        binaries.mkdir(parents=True)
        for name, script in {"python": "exit 1", **commands}.items():
            (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
            (binaries / name).chmod(0o755)
        for stamp in (".serve", ".dev"):
            (folder / ".venv" / stamp).touch()

    def make(self, *words: str, code: int = 0, **settings: str) -> str:
        """Runs make and returns what it printed."""
        done = subprocess.run(
            ["make", *words],
            cwd=self.folder,
            env={**clean_environment(), "PYTHONPATH": str(ROOT), **settings},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def calls(self) -> list[str]:
        """The stand-ins that ran since the last question, by their first word."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def runs(self) -> list[str]:
        return sorted(p.name for p in (self.folder / "runs").iterdir() if p.is_dir())


def clean_environment() -> dict[str, str]:
    ours = ("MAKE", "SR_", "DATA", "RUN", "TRAIN_FLAGS", "MODEL", "SM", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, STAND_INS)


@pytest.fixture
def planned(project: Project) -> Project:
    """Trained on pictures of its own, exported and planned."""
    project.make("plan", "DATA=my pictures", "RUN=runs/mine", FLAGS)
    assert project.calls() == ["train", "export", "build"]
    return project


def test_what_is_there_is_not_made_again(planned: Project) -> None:
    planned.make("--question", "train", "export", "plan", "RUN=runs/mine")
    planned.make("--question", "plan", "DATA=my pictures", "RUN=runs/mine", FLAGS)
    planned.make("train", "export", "plan", "RUN=runs/mine")
    assert planned.calls() == []


@pytest.mark.parametrize("change", ["added", "removed", "edited"])
def test_another_data_set_trains_again_and_keeps_the_old_run(planned: Project, change: str) -> None:
    first, second = sorted(planned.pictures.iterdir())
    if change == "added":
        shutil.copy(first, planned.pictures / "a third.PNG")
    elif change == "removed":
        second.unlink()
    else:
        os.utime(first, (1, 1))
    assert "sr-train fit" in planned.make("--just-print", "train", "RUN=runs/mine")
    assert planned.calls() == []
    planned.make("plan", "RUN=runs/mine")
    assert planned.calls() == ["train", "export", "build"]
    assert len(planned.runs()) == 2
    planned.make("--question", "plan", "RUN=runs/mine")


def test_a_file_that_is_no_picture_is_no_change(planned: Project) -> None:
    (planned.pictures / "notes.txt").write_text("not a picture")
    planned.make("--question", "plan", "RUN=runs/mine")


def test_another_config_trains_again(planned: Project) -> None:
    planned.make("train", "RUN=runs/mine", "TRAIN_FLAGS=--iterations 3")
    assert planned.calls() == ["train"]
    planned.make("--question", "train", "RUN=runs/mine")


def test_another_onnx_builds_the_plan_again(planned: Project) -> None:
    (planned.folder / "runs/mine/weights.safetensors").write_text("other numbers")
    planned.make("plan", "RUN=runs/mine")
    assert planned.calls() == ["export", "build"]


def test_the_same_onnx_does_not_build_the_plan_again(planned: Project) -> None:
    (planned.folder / "runs/mine/weights.safetensors").touch()
    planned.make("plan", "RUN=runs/mine")
    assert planned.calls() == ["export"]
    planned.make("--question", "plan", "RUN=runs/mine")


def test_a_plan_for_another_gpu_is_only_a_plan(planned: Project) -> None:
    planned.make("plan", "RUN=runs/mine", "SM=89")
    assert planned.calls() == ["build"]
    planned.make("--question", "plan", "RUN=runs/mine", "SM=75")


def test_an_interrupted_training_goes_on_unless_its_inputs_changed(project: Project) -> None:
    words = ("train", "DATA=my pictures", "RUN=runs/mine", FLAGS)
    project.make(*words, code=2, INTERRUPTED="1")
    project.make(*words)
    assert (project.calls(), project.runs()) == (["train", "train"], ["mine"])
    project.make(*words[:-1], "TRAIN_FLAGS=--iterations 4", code=2, INTERRUPTED="1")
    assert len(project.runs()) == 2


def test_weights_from_elsewhere_are_never_trained_again(project: Project) -> None:
    run = project.folder / "runs/given"
    run.mkdir(parents=True)
    (run / "weights.safetensors").write_text("numbers")
    project.make("plan", "RUN=runs/given")
    assert project.calls() == ["export", "build"]


def test_serving_brings_the_named_run_up_to_date_first(planned: Project) -> None:
    planned.make("serve", "RUN=runs/mine")
    assert planned.calls() == ["serve"]
    shutil.copy(next(planned.pictures.iterdir()), planned.pictures / "new.webp")
    shown = planned.make("serve", "RUN=runs/mine")
    assert planned.calls() == ["train", "export", "build", "serve"]
    assert "sr-server --model runs/mine/weights.safetensors" in shown


def test_serving_alone_takes_the_shipped_models_and_trains_nothing(project: Project) -> None:
    assert "sr-server --model auto" in project.make("serve")
    assert project.calls() == ["serve"]


def test_train_alone_is_a_smoke_run_on_the_bundled_pictures(project: Project) -> None:
    shown = project.make("train")
    assert "--data 'tests/data/train_small' --out runs/train_small --iterations" in shown


def test_the_real_commands_make_a_plan_of_the_weights_that_they_trained(tmp_path: Path) -> None:
    run_module = 'exec {python} -m {module} "$@"'
    project = Project(
        tmp_path,
        {
            name: run_module.format(python=sys.executable, module=module)
            for name, module in (("sr-train", "trainer"), ("sr-engine", "engine"))
        },
    )
    project.make("plan", "DATA=my pictures", "RUN=runs/mine", REAL_FLAGS)
    run = tmp_path / "runs" / "mine"
    [graph] = (run / "onnx").glob("*.rgb24.fp16.onnx")
    record = json.loads((run / "sm75.plan.json").read_text())
    assert record["key"]["onnx_sha256"] == hashlib.sha256(graph.read_bytes()).hexdigest()
    project.make("--question", "plan", "RUN=runs/mine")
    (run / "weights.safetensors").touch()
    assert "is of the same graph" in project.make("plan", "RUN=runs/mine")
