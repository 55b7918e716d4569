"""A GPU engine that was asked for and cannot run: one sentence, exit code 3, never the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.server.live import ROOT
from tests.server.test_app_start import start

NO_DRIVER = """
raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")
"""
OLD_DRIVER = """
from types import SimpleNamespace
class Error(Exception): ...
def init(): ...
def get_driver_version(): return 11040
class device_attribute: MULTIPROCESSOR_COUNT = ASYNC_ENGINE_COUNT = 1
class Device:
    def __init__(self, ordinal): ...
    @staticmethod
    def count(): return 1
    def retain_primary_context(self):
        return SimpleNamespace(push=lambda: None, pop=lambda: None, detach=lambda: None)
    def get_attribute(self, which): return 40
    def compute_capability(self): return 7, 5
    def name(self): return "Tesla T4"
    def total_memory(self): return 2**34
class Context:
    pop = staticmethod(lambda: None)
"""


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (NO_DRIVER, "PyCUDA finds no NVIDIA driver (libcuda.so.1"),
        (OLD_DRIVER, "the driver speaks 11.4: update the driver"),
    ],
)
def test_a_gpu_that_cannot_be_used_ends_the_server_with_its_reason(
    tmp_path: Path, driver: str, sentence: str
) -> None:
    package = tmp_path / "site" / "pycuda"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "driver.py").write_text(driver)
    path = os.pathsep.join([str(package.parent), str(ROOT)])
    done = start(tmp_path / "data", "--port", "0", SR_BACKEND="tensorrt_rtx", PYTHONPATH=path)
    assert done.returncode == 3, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("sr-server: ")
    assert sentence in said[0]


def test_a_runtime_that_is_not_installed_ends_the_server_with_how_to_get_it(tmp_path: Path) -> None:
    done = start(tmp_path, "--port", "0", SR_BACKEND="tensorrt")
    assert done.returncode == 3, done.stderr
    assert "pip install" in done.stderr.splitlines()[-1]
