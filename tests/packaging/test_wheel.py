"""The wheel alone, with its base dependencies and no torch, does the work from any folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["engine", "server", "trainer"]
TEXTS = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"]
FORBIDDEN = ["torch", "tensorrt", "tensorrt_rtx", "pycuda", "onnxscript", "pytest", "cv2"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree and nothing old is picked up."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in TEXTS:
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."],
        cwd=source,
        check=True,
        capture_output=True,
    )
    [built] = (source / "dist").glob("*.whl")
    return built


def base_requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]


def needed(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """The distributions here that ``requirements`` pull in, extras only where asked for."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(Requirement(text), frozenset({""})) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, extras = waiting.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        asked = frozenset({"", *requirement.extras})
        if (requirement.name.lower(), asked) in seen:
            continue
        seen.add((requirement.name.lower(), asked))
        distribution = metadata.distribution(requirement.name)
        found[requirement.name.lower()] = distribution
        waiting += [(Requirement(text), asked) for text in distribution.requires or []]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A new virtual environment with the wheel and links to what the wheel says it needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    for distribution in needed(base_requirements(wheel)).values():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if not (packages / top).exists():
                (packages / top).symlink_to(source)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, *offline, str(wheel)], check=True, capture_output=True)
    return folder


def run(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment, as a user in ``folder`` would type it."""
    program = [str(environment / "bin" / command[0]), *command[1:]]
    return subprocess.run(
        program, cwd=folder, env=clean_variables(), capture_output=True, text=True, timeout=90
    )


def clean_variables() -> dict[str, str]:
    return {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SR_"))
    }


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside the repository, with a picture and a folder of pictures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 16 + index, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.png")
    shutil.copy(photos / "0.png", tmp_path / "small.png")
    return tmp_path


def test_nothing_but_the_base_dependencies_is_installed(environment: Path, elsewhere: Path) -> None:
    code = (
        "import importlib.util, json, sys, engine, server.upscale_cli, server.app\n"
        f"found = [name for name in {FORBIDDEN} if importlib.util.find_spec(name)]\n"
        "loaded = [name for name in sys.modules if name.partition('.')[0] == 'torch']\n"
        "print(json.dumps([found, loaded, engine.__file__]))"
    )
    result = run(environment, elsewhere, "python", "-c", code)
    assert result.returncode == 0, result.stderr
    found, loaded, place = json.loads(result.stdout)
    assert found == loaded == []
    assert Path(place).is_relative_to(environment)


def test_the_wheel_holds_every_file_that_is_not_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    for package in SOURCES:
        for path in (ROOT / package).rglob("*"):
            relative = path.relative_to(ROOT)
            # Training states are for going on from a checkout, not for serving.
            if path.is_file() and not {"__pycache__", "states"} & set(relative.parts):
                assert relative.as_posix() in packed


def test_a_picture_is_upscaled_by_the_shipped_weights(environment: Path, elsewhere: Path) -> None:
    result = run(environment, elsewhere, "sr-upscale", "small.png", "large.png")
    assert result.returncode == 0, result.stderr
    assert "backend winograd" in result.stderr
    assert "model fast" in result.stderr
    with Image.open(elsewhere / "large.png") as large:
        assert large.size == (64, 48)


def test_a_folder_is_upscaled_and_finished_ones_are_skipped(
    environment: Path, elsewhere: Path
) -> None:
    command = ("sr-upscale", "photos", "photos_x4", "--backend", "nearest")
    first = run(environment, elsewhere, *command)
    assert first.returncode == 0, first.stderr
    assert "2 done, 0 skipped" in first.stderr
    second = run(environment, elsewhere, *command)
    assert second.returncode == 0, second.stderr
    assert "0 done, 2 skipped" in second.stderr
    assert sorted(path.name for path in (elsewhere / "photos_x4").iterdir()) == ["0.png", "1.png"]


@pytest.fixture
def address(environment: Path, elsewhere: Path) -> Iterator[str]:
    """Of a running ``sr-server``."""
    variables = {**clean_variables(), "SR_DATA_DIR": str(elsewhere / "data"), "SR_CALIBRATE": "off"}
    command = [environment / "bin" / "sr-server", "--port", "0", "--backend", "nearest"]
    with (
        open(elsewhere / "log", "wb") as log,  # noqa: PTH123
        subprocess.Popen(
            command, cwd=elsewhere, env=variables, stdout=subprocess.PIPE, stderr=log, text=True
        ) as server,
    ):
        assert server.stdout is not None
        said = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", said)
        try:
            assert found, f"{said}{(elsewhere / 'log').read_text()}"
            yield found.group()
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert server.returncode == 0


def test_the_server_starts_and_shows_its_page(address: str) -> None:
    with urllib.request.urlopen(f"{address}livez", timeout=30) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert b"<html" in answer.read()
